import { Button, NativeSelect, TextInput } from '@mantine/core';
import { IconMail } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { invite } from '@/actions/invites';
import type { Role } from '@/api/views';
import { choiceQuery } from '@/stores/queries';
import { firstChoice } from '@/stores/roles';
import { checkEmail } from '@/stores/rules';
import { t } from '@/texts';
import { toastDone } from '../toast';
import { useAct } from '../useAct';
import classes from './people.module.css';
import { RoleSelect } from './RoleSelect';

interface Faults {
  email: string;
  role: string;
  server: string;
}
const none: Faults = { email: '', role: '', server: '' };

// At which field a refusal belongs that names none.
const placeOf: Record<string, keyof Faults> = {
  invite_exists: 'email',
  already_member: 'email',
  role_beyond_yours: 'role',
};

/** Invites an address, for the whole organisation or one server; for `server` alone when that is given. */
export function InviteForm({ org, roles, server }: { org: string; roles: Role[]; server?: string }) {
  const client = useQueryClient();
  const [email, setEmail] = useState('');
  const [chosen, setChosen] = useState<string | null>(null);
  const [reach, setReach] = useState('');
  const [faults, setFaults] = useState(none);
  const role = roles.some((r) => r.id === chosen && r.assignable) ? (chosen ?? '') : firstChoice(roles);
  const { run, busy } = useAct(
    async () => {
      const found = { ...none, email: checkEmail(email), role: role ? '' : t('invites.chooseRole') };
      setFaults(found);
      if (found.email || found.role) return;
      await invite(client, org, { email, role, server: server ?? reach });
      toastDone(t('invites.sent', { email: email.trim() }));
      setEmail('');
    },
    (error) => {
      const said = (field: keyof Faults) =>
        error.fields[field]?.message ?? (placeOf[error.code] === field ? error.message : '');
      const found = { email: said('email'), role: said('role'), server: said('server') };
      setFaults(found);
      return Boolean(found.email || found.role || (found.server && server === undefined));
    },
  );
  if (firstChoice(roles) === '') return <p className="muted">{t('invites.noRole')}</p>;
  return (
    <form
      noValidate
      className={classes.form}
      data-two={server !== undefined || undefined}
      onSubmit={(e) => {
        e.preventDefault();
        void run();
      }}
    >
      <TextInput
        label={t('invites.email')}
        type="email"
        autoComplete="off"
        value={email}
        error={faults.email || undefined}
        onChange={(e) => setEmail(e.currentTarget.value)}
      />
      <RoleSelect label={t('invites.role')} roles={roles} value={role} error={faults.role} onChange={setChosen} />
      {server === undefined && <Reach org={org} value={reach} error={faults.server} onChange={setReach} />}
      <div className={classes.send}>
        <Button type="submit" size="md" loading={busy} leftSection={<IconMail size={17} aria-hidden="true" />}>
          {t('invites.send')}
        </Button>
      </div>
    </form>
  );
}

function Reach({
  org,
  value,
  error,
  onChange,
}: {
  org: string;
  value: string;
  error: string;
  onChange: (server: string) => void;
}) {
  const servers = useQuery(choiceQuery(org)).data;
  const many = servers !== undefined && servers.total > servers.items.length;
  return (
    <NativeSelect
      label={t('invites.reach')}
      description={many ? t('invites.many') : t('invites.reachHint')}
      inputWrapperOrder={['label', 'input', 'description', 'error']}
      value={value}
      error={error || undefined}
      onChange={(e) => onChange(e.currentTarget.value)}
      data={[
        { value: '', label: t('invites.everything') },
        ...(servers?.items ?? []).map((s) => ({ value: s.id, label: s.name })),
      ]}
    />
  );
}
