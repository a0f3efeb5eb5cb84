// Reading servers. What changes them is in src/actions.
import { request } from './client';
import type { Activity, Limits, Metrics, MetricsRange, Page, Placement, Server, ServerDetail } from './views';

export interface ServerQuery {
  search?: string;
  status?: string;
  game?: string;
  sort?: string;
  page?: number;
}

export const PER_PAGE = 50;

export function listServers(org: string, q: ServerQuery, signal?: AbortSignal): Promise<Page<Server>> {
  const query = {
    search: q.search,
    status: q.status,
    blueprint: q.game,
    sort: q.sort,
    page: q.page,
    per_page: PER_PAGE,
  };
  return request('servers', { org, query, signal });
}

/** The first 200 servers by name, to choose one from. */
export const listChoice = (org: string, signal?: AbortSignal): Promise<Page<Server>> =>
  request('servers', { org, query: { sort: 'name', per_page: 200 }, signal });

export async function getServer(org: string, id: string, signal?: AbortSignal): Promise<ServerDetail> {
  const answer = await request<ServerDetail | { server: ServerDetail }>(`servers/${encodeURIComponent(id)}`, {
    org,
    signal,
  });
  return 'server' in answer ? answer.server : answer;
}

export function listActivity(org: string, id: string, page: number, signal?: AbortSignal): Promise<Page<Activity>> {
  return request(`servers/${encodeURIComponent(id)}/activity`, { org, query: { page }, signal });
}

export function getMetrics(org: string, id: string, range: MetricsRange, signal?: AbortSignal): Promise<Metrics> {
  return request(`servers/${encodeURIComponent(id)}/metrics`, { org, query: { range }, signal });
}

export function askPlacement(
  org: string,
  ask: { blueprint: string; limits: Limits; node?: string },
  signal?: AbortSignal,
): Promise<Placement> {
  return request('servers/placement', { method: 'POST', org, body: ask, signal });
}
