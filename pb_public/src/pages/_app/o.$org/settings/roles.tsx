import { Button } from '@mantine/core';
import { IconPlus, IconShieldHalf } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { useState } from 'react';
import { deleteRole } from '@/actions/saveRole';
import type { Role, Roles as RolesView } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { rolesQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { Confirm } from '@/ui/Confirm';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { PeopleLoading } from '@/ui/people/MemberList';
import { RoleCard } from '@/ui/people/RoleCard';
import { RoleEditor } from '@/ui/people/RoleEditor';
import classes from '@/ui/people/roles.module.css';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/settings/roles')({ component: Roles });

function Roles() {
  const { org } = Route.useParams();
  const roles = useQuery(rolesQuery(org));
  useTitle(`${t('roles.title')} · ${t('org.title')}`);
  if (roles.data) return <Lists org={org} roles={roles.data} />;
  return (
    <div className={classes.page}>
      <Card title={t('roles.title')} lead={t('roles.lead')}>
        {roles.error ? <Failure cause={roles.error} retry={() => void roles.refetch()} /> : <PeopleLoading rows={4} />}
      </Card>
    </div>
  );
}

function Lists({ org, roles }: { org: string; roles: RolesView }) {
  const client = useQueryClient();
  const manage = usePermissions(org).can('role.manage');
  const [editing, setEditing] = useState<Role | 'new' | null>(null);
  const [asking, setAsking] = useState<Role | null>(null);
  const [open, setOpen] = useState(false);
  const { run, busy } = useAct(async (role: Role) => {
    await deleteRole(client, org, role.id);
    setOpen(false);
    toastDone(t('roles.deleted', { name: role.name }));
  });
  const own = roles.items.filter((role) => !role.system);
  const card = (role: Role) => (
    <RoleCard
      key={role.id}
      role={role}
      permissions={roles.permissions}
      manage={manage}
      onEdit={() => setEditing(role)}
      onDelete={() => {
        setAsking(role);
        setOpen(true);
      }}
    />
  );
  const add = manage && editing === null && (
    <Button leftSection={<IconPlus size={17} aria-hidden="true" />} onClick={() => setEditing('new')}>
      {t('roles.new')}
    </Button>
  );
  return (
    <div className={classes.page}>
      {editing !== null && (
        <RoleEditor
          key={editing === 'new' ? 'new' : editing.id}
          org={org}
          edited={editing === 'new' ? null : editing}
          permissions={roles.permissions}
          onClose={() => setEditing(null)}
        />
      )}
      {(own.length > 0 || editing === null) && (
        <Card title={t('roles.own')} lead={t('roles.lead')} action={own.length > 0 && add}>
          {own.length > 0 ? (
            <ul className={classes.list}>{own.map(card)}</ul>
          ) : (
            <Empty
              icon={<IconShieldHalf size={26} stroke={1.6} aria-hidden="true" />}
              title={t('roles.ownEmpty')}
              lead={t('roles.ownEmptyLead')}
            >
              {add}
            </Empty>
          )}
        </Card>
      )}
      <Card title={t('roles.system')} lead={t('roles.systemLead')}>
        <ul className={classes.list}>{roles.items.filter((role) => role.system).map(card)}</ul>
      </Card>
      <Confirm
        opened={open}
        onClose={() => setOpen(false)}
        title={t('roles.deleteTitle', { name: asking?.name ?? '' })}
        confirm={t('roles.delete')}
        busy={busy}
        onConfirm={() => asking && void run(asking)}
      >
        {t('roles.deleteWhat')}
      </Confirm>
    </div>
  );
}
