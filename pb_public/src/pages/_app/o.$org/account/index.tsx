import { Button, SegmentedControl, Skeleton, TextInput, useMantineColorScheme } from '@mantine/core';
import { IconLogout } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { useState } from 'react';
import { saveName } from '@/actions/saveName';
import type { Account as AccountView } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { accountQuery, currentQuery } from '@/stores/queries';
import { checkPersonName } from '@/stores/rules';
import { t } from '@/texts';
import { DeleteCard } from '@/ui/account/DeleteCard';
import { EmailCard } from '@/ui/account/EmailCard';
import { Card } from '@/ui/Card';
import { Failure } from '@/ui/Failure';
import { LeaveRow } from '@/ui/people/LeaveRow';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { useSignOut } from '@/ui/useSignOut';
import { useTitle } from '@/ui/useTitle';
import classes from '../account.module.css';

export const Route = createFileRoute('/_app/o/$org/account/')({ component: Profile });

function Profile() {
  const account = useQuery(accountQuery);
  const signOut = useSignOut();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  useTitle(`${t('account.profile')} · ${t('account.title')}`);
  return (
    <div className={classes.stack}>
      {account.data ? (
        <>
          <You account={account.data} />
          <EmailCard account={account.data} />
        </>
      ) : account.error ? (
        <Failure cause={account.error} retry={() => void account.refetch()} />
      ) : (
        <Skeleton height={220} radius={12} />
      )}
      <Card title={t('account.theme')} lead={t('account.themeLead')}>
        <SegmentedControl
          aria-label={t('account.theme')}
          value={colorScheme}
          onChange={(v) => setColorScheme(v as 'auto' | 'light' | 'dark')}
          data={[
            { value: 'auto', label: t('account.system') },
            { value: 'light', label: t('account.light') },
            { value: 'dark', label: t('account.dark') },
          ]}
        />
      </Card>
      <Leave />
      <Card title={t('account.session')} lead={t('account.signOutLead')}>
        <Button variant="default" leftSection={<IconLogout size={17} aria-hidden="true" />} onClick={signOut}>
          {t('action.signOut')}
        </Button>
      </Card>
      {account.data && <DeleteCard account={account.data} />}
    </div>
  );
}

/** For those who have no settings of the organisation to leave it from. */
function Leave() {
  const { org } = Route.useParams();
  const current = useQuery(currentQuery(org)).data;
  const settings = usePermissions(org).can('tenant.read');
  if (!current || settings) return null;
  return (
    <Card title={current.tenant.name}>
      <LeaveRow org={org} tenant={current.tenant} />
    </Card>
  );
}

function You({ account }: { account: AccountView }) {
  const client = useQueryClient();
  const [name, setName] = useState(account.name);
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      const found = checkPersonName(name);
      setFault(found);
      if (found) return;
      await saveName(client, account.id, name);
      toastDone(t('account.saved'));
    },
    (error) => {
      setFault(error.fields.name?.message ?? '');
      return Boolean(error.fields.name);
    },
  );
  return (
    <Card title={t('account.you')}>
      <form
        className={classes.form}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <TextInput
          label={t('account.name')}
          autoComplete="name"
          value={name}
          error={fault || undefined}
          onChange={(e) => setName(e.currentTarget.value)}
        />
        <Button type="submit" loading={busy} disabled={name.trim() === account.name}>
          {t('action.save')}
        </Button>
      </form>
    </Card>
  );
}
