import { Button } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { deleteTenant, keepTenant } from '@/actions/deleteTenant';
import type { Tenant } from '@/api/views';
import { factorsQuery } from '@/stores/queries';
import { t } from '@/texts';
import classes from '../Card.module.css';
import { Confirm } from '../Confirm';
import { useProof } from '../factors/Proof';
import { day } from '../format';
import { toastDone } from '../toast';
import { useAct } from '../useAct';

/** The end of an organisation: what is lost, when, and the way back until then. */
export function DeleteRow({ org, tenant }: { org: string; tenant: Tenant }) {
  const client = useQueryClient();
  const { name } = tenant;
  const [asking, setAsking] = useState(false);
  const { proven, dialog } = useProof(useQuery({ ...factorsQuery, enabled: asking }).data);
  const { run, busy } = useAct(async () => {
    const done = await proven(async () => void (await deleteTenant(client, org, name)));
    if (!done) return;
    setAsking(false);
    toastDone(t('org.deleteAsked', { name }));
  });
  const keep = useKeep(org, name);
  if (tenant.status === 'DELETING') {
    return (
      <div className={classes.action}>
        <div>
          <h3>{t('org.keep')}</h3>
          <p className="muted">{t('org.keepLead', { name, day: tenant.delete_at ? day(tenant.delete_at) : '' })}</p>
        </div>
        <Button variant="default" loading={keep.busy} onClick={() => void keep.run()}>
          {t('org.keep')}
        </Button>
      </div>
    );
  }
  return (
    <div className={classes.action}>
      <div>
        <h3>{t('org.delete')}</h3>
        <p className="muted">{t('org.deleteLead')}</p>
      </div>
      <Button color="red" onClick={() => setAsking(true)}>
        {t('org.deleteButton')}
      </Button>
      <Confirm
        opened={asking}
        onClose={() => setAsking(false)}
        title={t('org.deleteTitle', { name })}
        confirm={t('org.delete')}
        typed={name}
        busy={busy}
        onConfirm={() => void run()}
      >
        <p>{t('org.deleteWhat', { name })}</p>
        <p>{t('org.deleteGrace')}</p>
      </Confirm>
      {dialog}
    </div>
  );
}

/** Keeps an organisation that is being deleted. */
export function useKeep(org: string, name: string) {
  const client = useQueryClient();
  return useAct(async () => {
    await keepTenant(client, org);
    toastDone(t('org.kept', { name }));
  });
}
