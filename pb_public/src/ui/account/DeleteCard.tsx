import { Button } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { deleteAccount, forgetAccount } from '@/actions/deleteAccount';
import type { Account } from '@/api/views';
import { factorsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Card } from '../Card';
import classes from '../Card.module.css';
import { Confirm } from '../Confirm';
import { useProof } from '../factors/Proof';
import { useAct } from '../useAct';

/** The end of an account: what is lost, and the address typed. */
export function DeleteCard({ account }: { account: Account }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [asking, setAsking] = useState(false);
  const { proven, dialog } = useProof(useQuery({ ...factorsQuery, enabled: asking }).data);
  const { run, busy } = useAct(async () => {
    if (!(await proven(deleteAccount))) return;
    setAsking(false);
    await navigate({ to: '/sign-in', search: { done: 'deleted' } });
    await forgetAccount(client);
  });
  return (
    <Card title={t('org.danger')} tone="danger">
      <div className={classes.action}>
        <div>
          <h3>{t('account.delete')}</h3>
          <p className="muted">{t('account.deleteLead')}</p>
        </div>
        <Button color="red" onClick={() => setAsking(true)}>
          {t('account.deleteButton')}
        </Button>
      </div>
      <Confirm
        opened={asking}
        onClose={() => setAsking(false)}
        title={t('account.deleteTitle')}
        confirm={t('account.delete')}
        typed={account.email}
        busy={busy}
        onConfirm={() => void run()}
      >
        {t('account.deleteWhat')}
      </Confirm>
      {dialog}
    </Card>
  );
}
