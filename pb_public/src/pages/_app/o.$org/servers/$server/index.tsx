import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link } from '@tanstack/react-router';
import type { ServerDetail } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { installOutcome } from '@/stores/phase';
import { activityQuery, gameQuery, serverQuery } from '@/stores/queries';
import { t } from '@/texts';
import { ActivityList } from '@/ui/ActivityList';
import { Ago } from '@/ui/Ago';
import { ButtonLink } from '@/ui/ButtonLink';
import { Card, Notice } from '@/ui/Card';
import { CopyAddress } from '@/ui/CopyAddress';
import { ago, cores, exact, gib, mib } from '@/ui/format';
import { UsageCard } from '@/ui/UsageCard';
import { useTitle } from '@/ui/useTitle';
import classes from '../server.module.css';

export const Route = createFileRoute('/_app/o/$org/servers/$server/')({ component: Overview });

const RECENT = 6;

function Overview() {
  const { org, server: id } = Route.useParams();
  const server = useQuery(serverQuery(org, id)).data;
  const may = usePermissions(org);
  useTitle(server?.name ?? t('server.overview'));
  if (!server) return null;
  return (
    <div className={classes.overview}>
      <Trouble server={server} org={org} />
      {server.install_status === 'DONE' && (
        <div className={classes.wide}>
          <UsageCard org={org} id={id} />
        </div>
      )}
      <div className={classes.column}>
        <Facts server={server} org={org} />
        <Ports server={server} />
      </div>
      {may.can('server.activity') && <Recent org={org} id={id} />}
    </div>
  );
}

/** Why the server is not what it should be, and the way on. */
function Trouble({ server, org }: { server: ServerDetail; org: string }) {
  const installing = server.status === 'INSTALLING' || server.status === 'INSTALL_FAILED';
  if (installing) {
    const failed = installOutcome(server, server.job) === 'failed';
    return (
      <div className={classes.wide}>
        <Notice tone={failed ? 'broken' : 'working'} title={failed ? t('install.cardFailed') : t('install.card')}>
          <div className={classes.noticeRow}>
            <span>{server.problem?.message ?? t('install.lead')}</span>
            <ButtonLink to="/o/$org/servers/$server/install" params={{ org, server: server.id }} variant="default">
              {t('install.watch')}
            </ButtonLink>
          </div>
        </Notice>
      </div>
    );
  }
  if (!server.problem) return null;
  return (
    <div className={classes.wide}>
      <Notice tone={server.status === 'FAILED' ? 'broken' : 'attention'} title={t('server.problem')}>
        {server.problem.message}
      </Notice>
    </div>
  );
}

function Facts({ server, org }: { server: ServerDetail; org: string }) {
  const { node, blueprint, limits } = server;
  const variants = useQuery(gameQuery(org, blueprint.slug)).data?.variants ?? [];
  const variant = variants.length > 1 ? variants.find((v) => v.key === server.variant)?.name : undefined;
  const exitAt = server.last_exit_at ?? '';
  const exit = exitAt
    ? server.last_exit_code === null
      ? ago(exitAt)
      : t('server.exitCode', { ago: ago(exitAt), code: server.last_exit_code })
    : '';
  const facts: [string, React.ReactNode][] = [
    [t('server.address'), server.address ? <CopyAddress key="a" address={server.address} /> : t('servers.noAddress')],
    [t('server.game'), [blueprint.name, variant].filter(Boolean).join(', ')],
    [
      t('server.version'),
      <span key="v" className="mono">
        {blueprint.version}
      </span>,
    ],
    [
      t('server.limits'),
      t('unit.sizeLine', {
        memory: mib(limits.memory_mib),
        cpu: cores(limits.cpu_millicores),
        disk: gib(limits.disk_gib),
      }),
    ],
    ...(node
      ? ([[t('server.node'), [node.name, node.location].filter(Boolean).join(', ')]] as [string, React.ReactNode][])
      : []),
    [t('server.lastStart'), server.last_start_at ? <Moment key="s" at={server.last_start_at} /> : t('server.never')],
    ...(exit
      ? ([
          [
            t('server.lastExit'),
            <span key="e" title={exact(exitAt)} className={classes.sentence}>
              {exit}
            </span>,
          ],
        ] as [string, React.ReactNode][])
      : []),
    [t('server.created'), <Moment key="c" at={server.created} />],
    [
      t('server.id'),
      <span key="i" className="mono">
        {server.id}
      </span>,
    ],
  ];
  return (
    <Card title={t('server.details')}>
      <dl className={classes.facts}>
        {facts.map(([term, value]) => (
          <div key={term}>
            <dt>{term}</dt>
            <dd className="num">{value}</dd>
          </div>
        ))}
      </dl>
    </Card>
  );
}

function Moment({ at }: { at: string }) {
  return (
    <span className={classes.sentence}>
      <Ago at={at} />
    </span>
  );
}

function Ports({ server }: { server: ServerDetail }) {
  const ports = server.ports ?? [];
  if (ports.length < 2) return null; // the one there is is the address above
  return (
    <Card title={t('server.ports')}>
      <table className={classes.table}>
        <thead>
          <tr>
            <th scope="col">{t('server.portName')}</th>
            <th scope="col">{t('server.portAddress')}</th>
            <th scope="col">{t('server.portProtocol')}</th>
          </tr>
        </thead>
        <tbody>
          {ports.map((p) => (
            <tr key={`${p.name}${p.protocol}${p.host_port}`}>
              <td>{p.name}</td>
              <td>
                <CopyAddress address={`${p.host_ip}:${p.host_port}`} />
              </td>
              <td>{p.protocol.toUpperCase()}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Card>
  );
}

function Recent({ org, id }: { org: string; id: string }) {
  const activity = useQuery(activityQuery(org, id, 1));
  return (
    <Card
      title={t('server.recent')}
      action={
        <Link to="/o/$org/servers/$server/activity" params={{ org, server: id }}>
          {t('server.allActivity')}
        </Link>
      }
    >
      <ActivityList
        items={activity.data?.items.slice(0, RECENT)}
        error={activity.error}
        retry={() => void activity.refetch()}
      />
    </Card>
  );
}
