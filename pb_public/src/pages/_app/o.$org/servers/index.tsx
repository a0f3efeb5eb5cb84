import { ActionIcon, Button, NativeSelect, Skeleton, TextInput } from '@mantine/core';
import {
  IconChevronLeft,
  IconChevronRight,
  IconPlus,
  IconSearch,
  IconServer2,
  IconZoomQuestion,
} from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link, useNavigate } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { PER_PAGE } from '@/api/servers';
import { phases, type Server } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { blueprintsQuery, currentQuery, serversQuery } from '@/stores/queries';
import { t, tMaybe } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { CopyAddress } from '@/ui/CopyAddress';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { cores, mib } from '@/ui/format';
import { GameArt } from '@/ui/GameArt';
import { PageHead } from '@/ui/PageHead';
import { StatusLine } from '@/ui/Status';
import classes from './list.module.css';

const sorts = ['name', '-created', 'status'] as const;

interface Search {
  q?: string;
  status?: string;
  game?: string;
  sort?: (typeof sorts)[number];
  page?: number;
}

const word = (v: unknown) => (typeof v === 'string' && v !== '' ? v : typeof v === 'number' ? String(v) : undefined);

export const Route = createFileRoute('/_app/o/$org/servers/')({
  validateSearch: (s: Record<string, unknown>): Search => ({
    q: word(s.q),
    status: phases.find((p) => p === s.status),
    game: word(s.game),
    sort: sorts.find((one) => one === s.sort && one !== 'name'),
    page: Number.isInteger(s.page) && Number(s.page) > 1 ? Number(s.page) : undefined,
  }),
  component: Servers,
});

function Servers() {
  const { org } = Route.useParams();
  const search = Route.useSearch();
  const navigate = useNavigate({ from: Route.fullPath });
  const set = (next: Search) =>
    void navigate({ search: (held) => ({ ...held, page: undefined, ...next }), replace: true });
  const may = usePermissions(org);
  const servers = useQuery(
    serversQuery(org, {
      search: search.q,
      status: search.status,
      game: search.game,
      sort: search.sort ?? 'name',
      page: search.page,
    }),
  );
  const filtered = Boolean(search.q || search.status || search.game);
  const create = may.can('server.create') ? (
    <ButtonLink to="/o/$org/servers/new" params={{ org }} leftSection={<IconPlus size={17} aria-hidden="true" />}>
      {t('servers.new')}
    </ButtonLink>
  ) : null;
  const total = servers.data?.total ?? 0;
  const blank = servers.data !== undefined && total === 0 && !filtered;
  return (
    <>
      <PageHead title={t('servers.title')} action={blank ? null : create} />
      {!blank && <Filters search={search} set={set} org={org} />}
      {servers.data ? (
        total === 0 ? (
          filtered ? (
            <Empty
              icon={<IconZoomQuestion size={26} aria-hidden="true" />}
              title={t('servers.nothingTitle')}
              lead={t('servers.nothingLead')}
            >
              <Button variant="default" onClick={() => set({ q: undefined, status: undefined, game: undefined })}>
                {t('servers.clear')}
              </Button>
            </Empty>
          ) : (
            <Blank org={org} create={create} />
          )
        ) : (
          <>
            <ul className={classes.list} aria-label={t('servers.list')}>
              {servers.data.items.map((one) => (
                <Row key={one.id} server={one} org={org} />
              ))}
            </ul>
            <Pages page={search.page ?? 1} total={total} set={set} />
          </>
        )
      ) : servers.error ? (
        <Failure cause={servers.error} retry={() => void servers.refetch()} />
      ) : (
        <div className={classes.list} aria-busy="true">
          {[0, 1, 2].map((i) => (
            <ComingRow key={i} />
          ))}
        </div>
      )}
    </>
  );
}

function Blank({ org, create }: { org: string; create: React.ReactNode }) {
  const tenant = useQuery(currentQuery(org)).data?.tenant;
  const name = tenant?.name ?? '';
  const still = tenant !== undefined && tenant.status !== 'ACTIVE';
  return (
    <Empty
      icon={<IconServer2 size={26} aria-hidden="true" />}
      title={t('servers.emptyTitle')}
      lead={
        create
          ? t('servers.emptyLead')
          : still
            ? t('servers.emptyNotNow', { name })
            : t('servers.emptyReadOnly', { name })
      }
    >
      {create}
    </Empty>
  );
}

const TYPING_MS = 200;

function Filters({ search, set, org }: { search: Search; set: (next: Search) => void; org: string }) {
  const games = useQuery(blueprintsQuery(org)).data ?? [];
  const [text, setText] = useState(search.q ?? '');
  // biome-ignore lint/correctness/useExhaustiveDependencies: only what is typed counts
  useEffect(() => {
    if (text === (search.q ?? '')) return;
    const timer = setTimeout(() => set({ q: text.trim() || undefined }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  useEffect(() => {
    if (search.q === undefined) setText(''); // cleared elsewhere
  }, [search.q]);
  return (
    <search className={classes.filters}>
      <TextInput
        type="search"
        size="sm"
        aria-label={t('servers.search')}
        placeholder={t('servers.searchPlaceholder')}
        leftSection={<IconSearch size={17} aria-hidden="true" />}
        value={text}
        onChange={(e) => setText(e.currentTarget.value)}
      />
      <NativeSelect
        size="sm"
        aria-label={t('servers.status')}
        value={search.status ?? ''}
        onChange={(e) => set({ status: e.currentTarget.value || undefined })}
        data={[
          { value: '', label: t('servers.all') },
          ...phases.map((p) => ({ value: p, label: tMaybe(`status.${p}`) ?? p })),
        ]}
      />
      <NativeSelect
        size="sm"
        aria-label={t('servers.game')}
        value={search.game ?? ''}
        onChange={(e) => set({ game: e.currentTarget.value || undefined })}
        data={[{ value: '', label: t('servers.allGames') }, ...games.map((g) => ({ value: g.slug, label: g.name }))]}
      />
      <NativeSelect
        size="sm"
        aria-label={t('servers.sort')}
        value={search.sort ?? 'name'}
        onChange={(e) => set({ sort: e.currentTarget.value as Search['sort'] })}
        data={[
          { value: 'name', label: t('servers.sortName') },
          { value: '-created', label: t('servers.sortNewest') },
          { value: 'status', label: t('servers.sortStatus') },
        ]}
      />
    </search>
  );
}

function Row({ server, org }: { server: Server; org: string }) {
  const { blueprint, node } = server;
  return (
    <li className={classes.row} data-testid="server-row">
      <GameArt slug={blueprint.slug} name={blueprint.name} url={blueprint.icon_url} />
      <div className={classes.name}>
        <Link to="/o/$org/servers/$server" params={{ org, server: server.id }}>
          {server.name}
        </Link>
        <span className="muted">
          {node ? t('servers.onNode', { game: blueprint.name, node: node.name }) : blueprint.name}
        </span>
      </div>
      <div className={classes.status}>
        <StatusLine server={server} />
      </div>
      <div className={classes.address}>
        {server.address ? (
          <CopyAddress address={server.address} />
        ) : (
          <span className="muted" title={t('servers.noAddressTitle')}>
            {t('servers.noAddress')}
          </span>
        )}
      </div>
      <div className={`${classes.size} num muted`}>
        {mib(server.limits.memory_mib)} · {cores(server.limits.cpu_millicores)}
      </div>
    </li>
  );
}

/** A row while its server is asked for. */
function ComingRow() {
  return (
    <div className={classes.row}>
      <Skeleton height={48} width={48} radius={10} />
      <div className={classes.name}>
        <Skeleton height={14} width="60%" my={5} />
        <Skeleton height={11} width="40%" my={4} />
      </div>
      <Skeleton className={classes.status} height={13} width={120} />
      <Skeleton className={classes.address} height={13} width={150} />
      <Skeleton className={classes.size} height={12} width={90} ml="auto" />
    </div>
  );
}

function Pages({ page, total, set }: { page: number; total: number; set: (next: Search) => void }) {
  const pages = Math.max(1, Math.ceil(total / PER_PAGE));
  return (
    <div className={classes.pages}>
      <span className="num muted">{t('servers.count', { count: total })}</span>
      {pages > 1 && (
        <span className={classes.turn}>
          <ActionIcon
            variant="default"
            aria-label={t('servers.previous')}
            disabled={page <= 1}
            onClick={() => set({ page: page - 1 })}
          >
            <IconChevronLeft size={17} aria-hidden="true" />
          </ActionIcon>
          <span className="num">{t('servers.page', { page, pages })}</span>
          <ActionIcon
            variant="default"
            aria-label={t('servers.next')}
            disabled={page >= pages}
            onClick={() => set({ page: page + 1 })}
          >
            <IconChevronRight size={17} aria-hidden="true" />
          </ActionIcon>
        </span>
      )}
    </div>
  );
}
