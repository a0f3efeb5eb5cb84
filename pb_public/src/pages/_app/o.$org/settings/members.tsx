import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { invitesQuery, membersQuery, rolesQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { Failure } from '@/ui/Failure';
import { InviteForm } from '@/ui/people/InviteForm';
import { InviteList } from '@/ui/people/InviteList';
import { MemberList, PeopleLoading } from '@/ui/people/MemberList';
import classes from '@/ui/people/people.module.css';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/settings/members')({ component: Members });

function Members() {
  const { org } = Route.useParams();
  const may = usePermissions(org);
  const members = useQuery(membersQuery(org));
  const roles = useQuery(rolesQuery(org));
  useTitle(`${t('org.members')} · ${t('org.title')}`);
  const failed = [members, roles].find((q) => q.error && !q.data);
  return (
    <div className={classes.stack}>
      {may.can('member.invite') && roles.data && (
        <>
          <Card title={t('invites.title')} lead={t('invites.lead')}>
            <InviteForm org={org} roles={roles.data.items} />
          </Card>
          <Open org={org} />
        </>
      )}
      <Card title={t('members.title')} lead={t('members.lead')}>
        {members.data && roles.data ? (
          <MemberList
            org={org}
            people={members.data}
            roles={roles.data.items}
            me={session()?.id ?? ''}
            update={may.can('member.update')}
            remove={may.can('member.remove')}
          />
        ) : failed ? (
          <Failure cause={failed.error} retry={() => void failed.refetch()} />
        ) : (
          <PeopleLoading />
        )}
      </Card>
    </div>
  );
}

function Open({ org }: { org: string }) {
  const invites = useQuery(invitesQuery(org));
  return (
    <Card title={t('invites.open')}>
      {invites.data ? (
        invites.data.length > 0 ? (
          <InviteList org={org} invites={invites.data} />
        ) : (
          <p className="muted">{t('invites.openEmpty')}</p>
        )
      ) : invites.error ? (
        <Failure cause={invites.error} retry={() => void invites.refetch()} />
      ) : (
        <PeopleLoading rows={1} />
      )}
    </Card>
  );
}
