// The cache: what is kept under which key, and that an older answer never replaces a newer one.
import { keepPreviousData, QueryClient, queryOptions, replaceEqualDeep } from '@tanstack/react-query';
import { listSessions } from '@/api/account';
import { type AuditQuery, listAudit } from '@/api/audit';
import { getGame, listBlueprints } from '@/api/blueprints';
import { ApiError } from '@/api/error';
import { listExports } from '@/api/exports';
import { getFactors } from '@/api/factors';
import { listKeys } from '@/api/keys';
import { getNoticePrefs, listBrowsers, listMutes, listNotices, listWebhooks } from '@/api/notices';
import { listAccess, listInvites, listMembers, listRoles } from '@/api/people';
import {
  askPlacement,
  getMetrics,
  getServer,
  listActivity,
  listChoice,
  listServers,
  type ServerQuery,
} from '@/api/servers';
import { getAccount, getCurrent, listTenants } from '@/api/tenants';
import type { Limits, MetricsRange, Page, Server, ServerDetail } from '@/api/views';
import { untilNext } from './metrics';
import { newer, type Revised } from './rev';

const RETRIES = 2;

export function newQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: 30_000, // realtime keeps it fresh; this is for coming back to a page
        retry: (failures, error) => failures < RETRIES && error instanceof ApiError && error.retryable,
        retryDelay: (attempt) => Math.min(500 * 2 ** attempt, 4000),
      },
      mutations: { retry: false },
    },
  });
}

/** For structuralSharing: an answer that was overtaken by a realtime message does not bring the past back. */
export function keepNewer(held: unknown, next: unknown): unknown {
  const before = held as Revised | undefined;
  const after = next as Revised;
  if (before && before.id === after.id && before.rev > after.rev) return newer(after, before);
  return replaceEqualDeep(held, next);
}

/** The same for a page of servers: each row is the newest of the two. */
export function keepNewerRows(held: unknown, next: unknown): unknown {
  const before = held as Page<Server> | undefined;
  const after = next as Page<Server>;
  if (!before) return after;
  const known = new Map(before.items.map((s) => [s.id, s]));
  const items = after.items.map((s) => {
    const old = known.get(s.id);
    return old && old.rev > s.rev ? old : s;
  });
  return replaceEqualDeep(before, { ...after, items });
}

export const accountQuery = queryOptions({ queryKey: ['account'], queryFn: ({ signal }) => getAccount(signal) });

export const factorsQuery = queryOptions({
  queryKey: ['account', 'factors'],
  queryFn: ({ signal }) => getFactors(signal),
});

export const sessionsQuery = queryOptions({
  queryKey: ['account', 'sessions'],
  queryFn: ({ signal }) => listSessions(signal),
});

/** A page of what is behind the bell, the newest first. */
export const noticesQuery = (page: number) =>
  queryOptions({
    queryKey: ['notices', page],
    queryFn: ({ signal }) => listNotices(page, signal),
    placeholderData: keepPreviousData,
  });

export const noticePrefsQuery = queryOptions({
  queryKey: ['notice-prefs'],
  queryFn: ({ signal }) => getNoticePrefs(signal),
});

export const browsersQuery = queryOptions({
  queryKey: ['push'],
  queryFn: ({ signal }) => listBrowsers(signal),
});

export const mutesQuery = queryOptions({ queryKey: ['mutes'], queryFn: ({ signal }) => listMutes(signal) });

/** One's own webhooks, or with an organisation of that one's. */
export const webhooksQuery = (org: string) =>
  queryOptions({ queryKey: ['webhooks', org], queryFn: ({ signal }) => listWebhooks(org, signal) });

export const tenantsQuery = queryOptions({ queryKey: ['tenants'], queryFn: ({ signal }) => listTenants(signal) });

export const currentQuery = (org: string) =>
  queryOptions({ queryKey: ['org', org, 'current'], queryFn: ({ signal }) => getCurrent(org, signal) });

export const membersQuery = (org: string) =>
  queryOptions({ queryKey: ['org', org, 'members'], queryFn: ({ signal }) => listMembers(org, signal) });

export const invitesQuery = (org: string) =>
  queryOptions({ queryKey: ['org', org, 'invites'], queryFn: ({ signal }) => listInvites(org, signal) });

export const rolesQuery = (org: string) =>
  queryOptions({ queryKey: ['org', org, 'roles'], queryFn: ({ signal }) => listRoles(org, signal) });

/** An organisation's API keys; one's own with "". */
export const keysQuery = (org: string) =>
  queryOptions({
    queryKey: org ? ['org', org, 'keys'] : ['account', 'keys'],
    queryFn: ({ signal }) => listKeys(org, signal),
  });

const EXPORT_POLL_MS = 5000; // a message tells sooner

/** Archives of an organisation, the newest first. */
export const exportsQuery = (org: string) =>
  queryOptions({
    queryKey: ['org', org, 'exports'],
    queryFn: ({ signal }) => listExports(org, signal),
    refetchInterval: (query) => (query.state.data?.some((one) => one.status === 'RUNNING') ? EXPORT_POLL_MS : false),
  });

export const auditQuery = (org: string, q: AuditQuery) =>
  queryOptions({
    queryKey: ['org', org, 'audit', q],
    queryFn: ({ signal }) => listAudit(org, q, signal),
    placeholderData: keepPreviousData,
    staleTime: 0, // no message tells of a new row
  });

export const accessQuery = (org: string, server: string) =>
  queryOptions({
    queryKey: ['org', org, 'access', server],
    queryFn: ({ signal }) => listAccess(org, server, signal),
  });

/** The servers to choose from in a form: by name, the first 200. */
export const choiceQuery = (org: string) =>
  queryOptions({
    queryKey: ['org', org, 'servers', 'choice'],
    queryFn: ({ signal }) => listChoice(org, signal),
    structuralSharing: keepNewerRows,
  });

export const serversQuery = (org: string, q: ServerQuery) =>
  queryOptions({
    queryKey: ['org', org, 'servers', q],
    queryFn: ({ signal }) => listServers(org, q, signal),
    placeholderData: keepPreviousData,
    structuralSharing: keepNewerRows,
  });

export const serverQuery = (org: string, id: string) =>
  queryOptions<ServerDetail>({
    queryKey: ['org', org, 'server', id],
    queryFn: ({ signal }) => getServer(org, id, signal),
    structuralSharing: keepNewer,
  });

export const activityQuery = (org: string, id: string, page: number) =>
  queryOptions({
    queryKey: ['org', org, 'activity', id, page],
    queryFn: ({ signal }) => listActivity(org, id, page, signal),
    placeholderData: keepPreviousData,
  });

// Asked once for each window of 30 s, shortly after it can be there, and not while the page is hidden.
export const metricsQuery = (org: string, id: string, range: MetricsRange) =>
  queryOptions({
    queryKey: ['org', org, 'metrics', id, range],
    queryFn: ({ signal }) => getMetrics(org, id, range, signal),
    placeholderData: keepPreviousData,
    refetchInterval: (query) => untilNext(query.state.data, query.state.dataUpdatedAt, Date.now()),
  });

export const blueprintsQuery = (org: string) =>
  queryOptions({
    queryKey: ['org', org, 'blueprints'],
    queryFn: ({ signal }) => listBlueprints(org, signal),
    staleTime: 300_000,
  });

export const gameQuery = (org: string, slug: string) =>
  queryOptions({
    queryKey: ['org', org, 'blueprint', slug],
    queryFn: ({ signal }) => getGame(org, slug, signal),
    staleTime: 300_000,
  });

export const placementQuery = (org: string, ask: { blueprint: string; limits: Limits }) =>
  queryOptions({
    queryKey: ['org', org, 'placement', ask],
    queryFn: ({ signal }) => askPlacement(org, ask, signal),
    placeholderData: keepPreviousData,
    staleTime: 10_000,
  });

/** Of the ways to sign in, which are the same for everybody. */
export const waysKey = ['sign-in'];

/**
 * Forgets what was asked for as somebody: the next person at this browser sees nothing of him. The sign-in page is shown by then,
 * and what it is asking for stays: a query that is taken away under a page never answers it.
 */
export function forgetAnswers(client: QueryClient): void {
  client.removeQueries({ predicate: (query) => query.queryKey[0] !== waysKey[0] });
  client.getMutationCache().clear();
}
