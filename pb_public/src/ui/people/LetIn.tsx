import { Button, NativeSelect, SegmentedControl } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { giveAccess } from '@/actions/setAccess';
import type { Person, Role } from '@/api/views';
import { firstChoice } from '@/stores/roles';
import { t } from '@/texts';
import { Card } from '../Card';
import { toastDone } from '../toast';
import { useAct } from '../useAct';
import { InviteForm } from './InviteForm';
import classes from './people.module.css';
import { RoleSelect } from './RoleSelect';

interface Props {
  org: string;
  server: string;
  roles: Role[];
  /** Members that this server can still be given to. */
  others: Person[];
  invite: boolean;
  manage: boolean;
}

/** Gives a member, or somebody new by mail, a role on one server. */
export function LetIn({ org, server, roles, others, invite, manage }: Props) {
  const [how, setHow] = useState<'mail' | 'member'>('mail');
  const by = invite ? how : 'member';
  return (
    <Card title={t('access.add')} lead={t('access.addLead')}>
      {invite && (
        <SegmentedControl
          className={classes.how}
          aria-label={t('access.how')}
          value={how}
          onChange={(v) => setHow(v as 'mail' | 'member')}
          data={[
            { value: 'mail', label: t('access.byMail') },
            { value: 'member', label: t('access.member') },
          ]}
        />
      )}
      {by === 'mail' ? (
        <InviteForm org={org} roles={roles} server={server} />
      ) : (
        <GiveForm org={org} server={server} roles={roles} others={others} />
      )}
      {manage && (
        <p className={classes.foot}>
          {t('access.rolesHint')}{' '}
          <Link to="/o/$org/settings/roles" params={{ org }}>
            {t('access.rolesLink')}
          </Link>
        </p>
      )}
    </Card>
  );
}

function GiveForm({ org, server, roles, others }: Pick<Props, 'org' | 'server' | 'roles' | 'others'>) {
  const client = useQueryClient();
  const [user, setUser] = useState('');
  const [chosen, setChosen] = useState<string | null>(null);
  const [fault, setFault] = useState('');
  const role = roles.some((r) => r.id === chosen && r.assignable) ? (chosen ?? '') : firstChoice(roles);
  const person = others.find((one) => one.user === user);
  const { run, busy } = useAct(
    async () => {
      setFault('');
      if (!person) return;
      await giveAccess(client, org, server, person.user, role);
      toastDone(t('access.given', { name: person.name }));
      setUser('');
    },
    (error) => {
      const said = error.fields.role?.message ?? (error.code === 'role_beyond_yours' ? error.message : '');
      setFault(said);
      return said !== '';
    },
  );
  if (others.length === 0) return <p className="muted">{t('access.everybody')}</p>;
  if (role === '') return <p className="muted">{t('invites.noRole')}</p>;
  return (
    <form
      className={classes.form}
      data-two
      onSubmit={(e) => {
        e.preventDefault();
        void run();
      }}
    >
      <NativeSelect
        label={t('access.person')}
        value={person ? user : ''}
        onChange={(e) => setUser(e.currentTarget.value)}
        data={[
          { value: '', label: t('access.choose') },
          ...others.map((one) => ({
            value: one.user,
            label: one.email && one.email !== one.name ? `${one.name} (${one.email})` : one.name,
          })),
        ]}
      />
      <RoleSelect label={t('invites.role')} roles={roles} value={role} error={fault} onChange={setChosen} />
      <div className={classes.send}>
        <Button type="submit" size="md" loading={busy} disabled={!person}>
          {t('access.give')}
        </Button>
      </div>
    </form>
  );
}
