import { Skeleton } from '@mantine/core';
import { IconLock } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link, Outlet } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { currentQuery } from '@/stores/queries';
import { t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { Empty } from '@/ui/Empty';
import { PageHead } from '@/ui/PageHead';
import { Tabs, tabLink } from '@/ui/Tabs';

export const Route = createFileRoute('/_app/o/$org/settings')({ component: Settings });

function Settings() {
  const { org } = Route.useParams();
  const current = useQuery(currentQuery(org)).data;
  const may = usePermissions(org);
  if (!current) {
    return (
      <div aria-busy="true">
        <Skeleton height={34} width={180} mb="lg" />
        <Skeleton height={38} width={360} mb="lg" />
        <Skeleton height={220} radius={12} />
      </div>
    );
  }
  if (!may.can('tenant.read')) {
    return (
      <>
        <PageHead title={t('org.title')} />
        <Empty icon={<IconLock size={26} aria-hidden="true" />} title={t('org.closed')} lead={t('org.closedLead')}>
          <ButtonLink to="/o/$org/servers" params={{ org }}>
            {t('server.toServers')}
          </ButtonLink>
        </Empty>
      </>
    );
  }
  const props = { ...tabLink, params: { org } };
  return (
    <>
      <PageHead title={t('org.title')} lead={t('org.lead', { name: current.tenant.name })} />
      <Tabs label={t('org.tabs')}>
        <Link to="/o/$org/settings" {...props}>
          {t('org.general')}
        </Link>
        <Link to="/o/$org/settings/members" {...props}>
          {t('org.members')}
        </Link>
        <Link to="/o/$org/settings/roles" {...props}>
          {t('org.roles')}
        </Link>
        {may.can('key.manage') && (
          <Link to="/o/$org/settings/keys" {...props}>
            {t('keys.title')}
          </Link>
        )}
        {may.can('audit.read') && (
          <Link to="/o/$org/settings/audit" {...props}>
            {t('audit.title')}
          </Link>
        )}
        <Link to="/o/$org/settings/danger" {...props}>
          {t('org.danger')}
        </Link>
      </Tabs>
      <Outlet />
    </>
  );
}
