import { Skeleton } from '@mantine/core';
import { IconGhost2 } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link, Outlet } from '@tanstack/react-router';
import { asApiError } from '@/api/error';
import type { ServerDetail } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { serverQuery } from '@/stores/queries';
import { t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { CopyAddress } from '@/ui/CopyAddress';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { GameArt } from '@/ui/GameArt';
import { Crumbs } from '@/ui/PageHead';
import { PowerButtons } from '@/ui/PowerButtons';
import { StatusLine } from '@/ui/Status';
import { Tabs, tabLink } from '@/ui/Tabs';
import classes from './server.module.css';

export const Route = createFileRoute('/_app/o/$org/servers/$server')({ component: ServerPage });

function ServerPage() {
  const { org, server: id } = Route.useParams();
  const server = useQuery(serverQuery(org, id));
  const crumbs = [{ text: t('servers.title'), link: { to: '/o/$org/servers', params: { org } } as const }];
  // Also when it was there a moment ago: somebody's access to it may have been taken away.
  const gone = server.data?.status === 'DELETED' || (server.error && asApiError(server.error).status === 404);
  if (server.data && !gone) {
    return (
      <>
        <Crumbs crumbs={crumbs} here={server.data.name} />
        <Head server={server.data} org={org} />
        <Parts org={org} id={id} />
        <Outlet />
      </>
    );
  }
  if (gone || server.error) {
    return (
      <>
        <Crumbs crumbs={crumbs} here={t('server.gone')} />
        <h1 className={classes.hidden}>{gone ? t('server.gone') : t('error.title')}</h1>
        {gone ? (
          <Empty
            icon={<IconGhost2 size={26} aria-hidden="true" />}
            title={t('server.gone')}
            lead={t('server.goneLead')}
          >
            <ButtonLink to="/o/$org/servers" params={{ org }}>
              {t('server.toServers')}
            </ButtonLink>
          </Empty>
        ) : (
          <Failure cause={server.error} retry={() => void server.refetch()} />
        )}
      </>
    );
  }
  return (
    <div className={classes.loading} aria-busy="true">
      <Skeleton height={18} width={160} />
      <Skeleton height={64} radius={12} />
      <Skeleton height={40} width={360} />
      <Skeleton height={240} radius={12} />
    </div>
  );
}

function Head({ server, org }: { server: ServerDetail; org: string }) {
  return (
    <header className={classes.head}>
      <GameArt slug={server.blueprint.slug} name={server.blueprint.name} url={server.blueprint.icon_url} size={60} />
      <div className={classes.title}>
        <h1>{server.name}</h1>
        <div className={classes.line}>
          <span data-testid="status-line" role="status">
            <StatusLine server={server} />
          </span>
          {server.address && <CopyAddress address={server.address} />}
        </div>
      </div>
      <PowerButtons server={server} org={org} />
    </header>
  );
}

function Parts({ org, id }: { org: string; id: string }) {
  const may = usePermissions(org);
  const props = { ...tabLink, params: { org, server: id } };
  return (
    <Tabs label={t('server.tabs')}>
      <Link to="/o/$org/servers/$server" {...props}>
        {t('server.overview')}
      </Link>
      {may.can('console.read') && (
        <Link to="/o/$org/servers/$server/console" {...props}>
          {t('server.console')}
        </Link>
      )}
      {may.can('member.update') && (
        <Link to="/o/$org/servers/$server/access" {...props}>
          {t('server.access')}
        </Link>
      )}
      <Link to="/o/$org/servers/$server/settings" {...props}>
        {t('server.settings')}
      </Link>
      {may.can('server.activity') && (
        <Link to="/o/$org/servers/$server/activity" {...props}>
          {t('server.activity')}
        </Link>
      )}
    </Tabs>
  );
}
