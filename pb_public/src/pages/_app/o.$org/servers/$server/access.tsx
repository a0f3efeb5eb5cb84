import { IconUsers } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { accessQuery, invitesQuery, membersQuery, rolesQuery, serverQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Card, Notice } from '@/ui/Card';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { AccessList } from '@/ui/people/AccessList';
import { InviteList } from '@/ui/people/InviteList';
import { LetIn } from '@/ui/people/LetIn';
import { PeopleLoading } from '@/ui/people/MemberList';
import classes from '@/ui/people/people.module.css';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/servers/$server/access')({ component: AccessPage });

function AccessPage() {
  const { org, server: id } = Route.useParams();
  const name = useQuery(serverQuery(org, id)).data?.name ?? '';
  const may = usePermissions(org);
  useTitle(`${t('server.access')} · ${name}`);
  if (!may.can('member.update')) return <Notice tone="working">{t('access.notAllowed')}</Notice>;
  return <Access org={org} server={{ id, name }} />;
}

function Access({ org, server }: { org: string; server: { id: string; name: string } }) {
  const may = usePermissions(org);
  const access = useQuery(accessQuery(org, server.id));
  const members = useQuery(membersQuery(org));
  const roles = useQuery(rolesQuery(org));
  const failed = [access, members, roles].find((q) => q.error && !q.data);
  const people = access.data && members.data && roles.data ? access.data : null;
  const here = new Set(people?.map((one) => one.user));
  return (
    <div className={classes.stack}>
      <Card title={t('access.title')} lead={t('access.lead', { name: server.name })}>
        {people && people.length === 0 ? (
          <Empty
            icon={<IconUsers size={26} stroke={1.6} aria-hidden="true" />}
            title={t('access.empty')}
            lead={t('access.emptyLead')}
          />
        ) : people ? (
          <AccessList
            org={org}
            server={server}
            people={people}
            members={members.data ?? []}
            roles={roles.data?.items ?? []}
          />
        ) : failed ? (
          <Failure cause={failed.error} retry={() => void failed.refetch()} />
        ) : (
          <PeopleLoading rows={2} />
        )}
      </Card>
      {may.can('member.invite') && <Invited org={org} server={server.id} />}
      {people && roles.data && (
        <LetIn
          org={org}
          server={server.id}
          roles={roles.data.items}
          others={(members.data ?? []).filter((one) => !here.has(one.user) && one.role_key !== 'OWNER')}
          invite={may.can('member.invite')}
          manage={may.can('role.manage')}
        />
      )}
    </div>
  );
}

/** Open invitations to this server; nothing where there is none. */
function Invited({ org, server }: { org: string; server: string }) {
  const invites = (useQuery(invitesQuery(org)).data ?? []).filter((one) => one.server === server);
  if (invites.length === 0) return null;
  return (
    <Card title={t('access.open')}>
      <InviteList org={org} invites={invites} />
    </Card>
  );
}
