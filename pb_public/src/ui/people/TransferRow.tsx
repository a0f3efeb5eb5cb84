import { Button, NativeSelect } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { transferTenant } from '@/actions/transferTenant';
import type { Tenant } from '@/api/views';
import { factorsQuery, membersQuery } from '@/stores/queries';
import { t } from '@/texts';
import classes from '../Card.module.css';
import { Confirm } from '../Confirm';
import { useProof } from '../factors/Proof';
import { toastDone } from '../toast';
import { useAct } from '../useAct';
import own from './people.module.css';

/** Makes another member the owner: one is chosen, the organisation's name is typed, and one shows who one is. */
export function TransferRow({ org, tenant, me }: { org: string; tenant: Tenant; me: string }) {
  const client = useQueryClient();
  const members = useQuery(membersQuery(org)).data;
  const [user, setUser] = useState('');
  const [asking, setAsking] = useState(false);
  const others = (members ?? []).filter((one) => one.user !== me && one.role_key !== 'OWNER');
  const person = others.find((one) => one.user === user)?.name ?? '';
  const { proven, dialog } = useProof(useQuery({ ...factorsQuery, enabled: asking }).data);
  const { run, busy } = useAct(async () => {
    const done = await proven(async () => void (await transferTenant(client, org, user)));
    if (!done) return;
    setAsking(false);
    setUser('');
    toastDone(t('org.transferred', { person, name: tenant.name }));
  });
  return (
    <div className={classes.action}>
      <div>
        <h3>{t('org.transfer')}</h3>
        <p className="muted">{t('org.transferLead')}</p>
        {members && others.length === 0 && <p className="muted">{t('org.transferNobody')}</p>}
      </div>
      {others.length > 0 && (
        <div className={own.hand}>
          <NativeSelect
            aria-label={t('org.transferTo')}
            size="sm"
            value={user}
            onChange={(e) => setUser(e.currentTarget.value)}
            data={[
              { value: '', label: t('org.transferChoose') },
              ...others.map((one) => ({
                value: one.user,
                label: one.email && one.email !== one.name ? `${one.name} (${one.email})` : one.name,
              })),
            ]}
          />
          <Button color="red" disabled={person === ''} onClick={() => setAsking(true)}>
            {t('org.transferButton')}
          </Button>
        </div>
      )}
      <Confirm
        opened={asking}
        onClose={() => setAsking(false)}
        title={t('org.transferTitle', { name: tenant.name })}
        confirm={t('org.transfer')}
        typed={tenant.name}
        busy={busy}
        onConfirm={() => void run()}
      >
        {t('org.transferWhat', { person, name: tenant.name })}
      </Confirm>
      {dialog}
    </div>
  );
}
