import { Button } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { forgetTenant, leaveTenant } from '@/actions/leaveTenant';
import type { Tenant } from '@/api/views';
import { session } from '@/stores/session';
import { t } from '@/texts';
import classes from '../Card.module.css';
import { Confirm } from '../Confirm';
import { toastDone } from '../toast';
import { useAct } from '../useAct';

/** The way out of an organisation; of its owner, why there is none. */
export function LeaveRow({ org, tenant }: { org: string; tenant: Tenant }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [asking, setAsking] = useState(false);
  const { name } = tenant;
  const { run, busy } = useAct(async () => {
    await leaveTenant(client, org, session()?.id ?? '');
    setAsking(false);
    toastDone(t('org.left', { name }));
    await navigate({ to: '/' });
    forgetTenant(client, org);
  });
  const owner = tenant.role === 'OWNER';
  return (
    <div className={classes.action}>
      <div>
        <h3>{t('org.leave')}</h3>
        <p className="muted">{owner ? t('org.leaveOwner') : t('org.leaveLead')}</p>
      </div>
      <Button variant="default" disabled={owner} onClick={() => setAsking(true)}>
        {t('org.leave')}
      </Button>
      <Confirm
        opened={asking}
        onClose={() => setAsking(false)}
        title={t('org.leaveTitle', { name })}
        confirm={t('org.leave')}
        busy={busy}
        onConfirm={() => void run()}
      >
        {t('org.leaveWhat', { name })}
      </Confirm>
    </div>
  );
}
