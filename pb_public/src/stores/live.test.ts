import { QueryClient, QueryObserver } from '@tanstack/react-query';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Job, Page, Server, ServerDetail } from '@/api/views';
import { aServer } from '@/testing';
import { apply, Live } from './live';
import { keepNewer, keepNewerRows } from './queries';
import { isNewer, newer, refresh } from './rev';

let client: QueryClient;
const detail = ['org', 'owls', 'server', 'server000000001'];
const list = ['org', 'owls', 'servers', {}];
const page = (...items: Server[]): Page<Server> => ({ items, page: 1, per_page: 50, total: items.length });
const held = () => client.getQueryData<ServerDetail>(detail);
const rows = () => client.getQueryData<Page<Server>>(list);
const stale = (key: unknown[]) => client.getQueryState(key)?.isInvalidated;
beforeEach(() => {
  client = new QueryClient();
});

describe('rev', () => {
  it('takes what is newer and drops what is not', () => {
    expect(isNewer(undefined, aServer())).toBe(true);
    expect(isNewer(aServer({ rev: 2 }), aServer({ rev: 2 }))).toBe(false);
    const old = aServer({ rev: 5, name: 'five' });
    expect(newer(old, aServer({ rev: 4, name: 'four' }))).toBe(old);
    expect(newer(old, aServer({ rev: 6, name: 'six' })).name).toBe('six');
  });
  it('keeps what only the detail knows', () => {
    const known: ServerDetail = { ...aServer(), install_log: 'kept' };
    expect(newer<ServerDetail>(known, aServer({ rev: 2 })).install_log).toBe('kept');
  });
  it('hands back the same list when nothing changes', () => {
    const all = [aServer({ rev: 3 })];
    expect(refresh(all, aServer({ rev: 3 }))).toBe(all);
    expect(refresh(all, aServer({ id: 'another', rev: 9 }))).toBe(all);
    expect(refresh(all, aServer({ rev: 4, name: 'new' }))[0]?.name).toBe('new');
  });
});

describe('a slow answer', () => {
  it('does not bring the past back over a realtime message', () => {
    const now = aServer({ rev: 7, status: 'RUNNING' });
    expect(keepNewer(now, aServer({ rev: 6, status: 'STARTING' }))).toMatchObject({ rev: 7, status: 'RUNNING' });
    expect(keepNewer(now, aServer({ rev: 8, status: 'STOPPED' }))).toMatchObject({ rev: 8, status: 'STOPPED' });
    expect(keepNewer(undefined, now)).toBe(now);
  });
  it('does not either in a list, but may add and remove rows', () => {
    const before = page(aServer({ rev: 7 }), aServer({ id: 'gone', rev: 1 }));
    const after = keepNewerRows(
      before,
      page(aServer({ rev: 6, name: 'old' }), aServer({ id: 'new', rev: 1 })),
    ) as Page<Server>;
    expect(after.items.map((s) => [s.id, s.rev])).toEqual([
      ['server000000001', 7],
      ['new', 1],
    ]);
  });
});

describe('apply', () => {
  it('puts a newer server wherever it is shown', () => {
    client.setQueryData(detail, aServer());
    client.setQueryData(list, page(aServer()));
    apply(client, 'owls', {
      type: 'server',
      id: 'server000000001',
      rev: 2,
      data: aServer({ rev: 2, address: '1.2.3.4:5' }),
    });
    expect(held()?.address).toBe('1.2.3.4:5');
    expect(rows()?.items[0]?.address).toBe('1.2.3.4:5');
    expect(stale(list)).toBe(false);
  });
  it('ignores an older one', () => {
    client.setQueryData(detail, aServer({ rev: 9 }));
    client.setQueryData(list, page(aServer({ rev: 9 })));
    apply(client, 'owls', {
      type: 'server',
      id: 'server000000001',
      rev: 8,
      data: aServer({ rev: 8, status: 'STOPPED' }),
    });
    expect(held()?.status).toBe('RUNNING');
    expect(rows()?.items[0]?.status).toBe('RUNNING');
  });
  it('asks again for lists that a server may enter or leave', () => {
    client.setQueryData(list, page());
    apply(client, 'owls', { type: 'server', id: 'server000000001', rev: 1, data: aServer() });
    expect(stale(list)).toBe(true);
    client.setQueryData(list, page(aServer()));
    apply(client, 'owls', {
      type: 'server',
      id: 'server000000001',
      rev: 2,
      data: aServer({ rev: 2, status: 'STOPPED' }),
    });
    expect(stale(list)).toBe(true);
  });
  it('takes a deleted server away and never lets it come back', () => {
    client.setQueryData(detail, aServer());
    client.setQueryData(list, page(aServer()));
    apply(client, 'owls', { type: 'server', id: 'server000000001', rev: 3, deleted: true });
    expect(rows()).toMatchObject({ items: [], total: 0 });
    apply(client, 'owls', { type: 'server', id: 'server000000001', rev: 4, data: aServer({ rev: 4 }) });
    expect(held()?.status).toBe('DELETED');
  });
  it('does not make up a detail that nobody looks at', () => {
    apply(client, 'owls', { type: 'server', id: 'server000000001', rev: 1, data: aServer() });
    expect(held()).toBeUndefined();
  });
  it('shows the newest job of a server, its own end included', () => {
    const job = (differs: Partial<Job>) => ({
      id: 'j1',
      kind: 'x',
      state: 'running',
      subject: 'server000000001',
      progress: null,
      error: null,
      rev: 1,
      ...differs,
    });
    client.setQueryData(detail, aServer());
    apply(client, 'owls', { type: 'job', data: job({ rev: 2 }) });
    apply(client, 'owls', { type: 'job', data: job({ rev: 1, state: 'ready' }) });
    expect(held()?.job).toMatchObject({ rev: 2, state: 'running' });
    apply(client, 'owls', { type: 'job', data: job({ id: 'older', rev: 5, state: 'done' }) });
    expect(held()?.job?.id).toBe('j1');
    apply(client, 'owls', { type: 'job', data: job({ rev: 3, state: 'dead', error: 'why' }) });
    expect(held()?.job).toMatchObject({ state: 'dead', error: 'why' });
  });
  it('asks again after a resync, and for what a tenant message touches', () => {
    client.setQueryData(detail, aServer());
    client.setQueryData(['org', 'owls', 'current'], {});
    client.setQueryData(['org', 'other', 'current'], {});
    apply(client, 'owls', { type: 'tenant' });
    expect(stale(['org', 'owls', 'current'])).toBe(true);
    expect(stale(detail)).toBe(false);
    apply(client, 'owls', { type: 'resync' });
    expect(stale(detail)).toBe(true);
    expect(stale(['org', 'other', 'current'])).toBe(false);
  });
  it('leaves kinds alone that a newer panel may send', () => {
    client.setQueryData(detail, aServer());
    apply(client, 'owls', { type: 'weather', data: {} });
    expect(stale(detail)).toBe(false);
  });
});

/** PocketBase's realtime, as far as Live uses it. */
function aRealtime() {
  const topics = new Map<string, (data: unknown) => void>();
  const fake = {
    onDisconnect: undefined as ((topics: string[]) => void) | undefined,
    refuse: false,
    isConnected: true,
    topics,
    async subscribe(topic: string, callback: (data: never) => void) {
      if (fake.refuse) throw new Error('forbidden');
      topics.set(topic, callback as (data: unknown) => void);
      return async () => void topics.delete(topic);
    },
  };
  return fake;
}

describe('Live', () => {
  it('applies what its topic says', async () => {
    client.setQueryData(detail, aServer());
    const realtime = aRealtime();
    const live = new Live(client, 'owls', 't1', realtime);
    live.start();
    await vi.waitFor(() => expect(realtime.topics.has('mamba.tenant.t1')).toBe(true));
    realtime.topics.get('mamba.tenant.t1')?.({
      type: 'server',
      id: 'server000000001',
      rev: 2,
      data: aServer({ rev: 2, status: 'STOPPED' }),
    });
    expect(held()?.status).toBe('STOPPED');
    live.stop();
    expect(realtime.topics.size).toBe(0);
  });
  it('says since when the connection is gone, and asks for everything once it is back', async () => {
    vi.useFakeTimers();
    client.setQueryData(detail, aServer());
    const others = vi.getTimerCount(); // the cache's own
    const realtime = aRealtime();
    const live = new Live(client, 'owls', 't1', realtime);
    const told = vi.fn();
    live.watch(told);
    live.start();
    await vi.advanceTimersByTimeAsync(1);
    expect(realtime.topics.size).toBe(1);
    client.setQueryData(detail, aServer({ rev: 2 }));
    expect(stale(detail)).toBe(false);
    realtime.isConnected = false;
    realtime.onDisconnect?.([]);
    const since = live.snapshot().lostAt;
    expect(since).toBeGreaterThan(0);
    await vi.advanceTimersByTimeAsync(7000);
    realtime.onDisconnect?.([]);
    expect(live.snapshot().lostAt).toBe(since);
    realtime.isConnected = true;
    await vi.advanceTimersByTimeAsync(1000);
    expect(live.snapshot().lostAt).toBe(since); // connected, but perhaps not yet subscribed
    await vi.advanceTimersByTimeAsync(1000);
    expect(live.snapshot().lostAt).toBeNull();
    expect(stale(detail)).toBe(true);
    expect(told).toHaveBeenCalledTimes(2);
    live.stop();
    expect(vi.getTimerCount()).toBe(others);
  });
  it('asks again for what may have changed before it was subscribed', async () => {
    client.setQueryData(detail, aServer());
    client.setQueryData(['org', 'owls', 'blueprints'], []);
    const realtime = aRealtime();
    const live = new Live(client, 'owls', 't1', realtime);
    live.start();
    await vi.waitFor(() => expect(stale(detail)).toBe(true));
    expect(stale(['org', 'owls', 'blueprints'])).toBe(false);
    live.stop();
  });
  it('asks at once what one is still let in to when the connection is cut', async () => {
    const realtime = aRealtime();
    const live = new Live(client, 'owls', 't1', realtime);
    live.start();
    await vi.waitFor(() => expect(realtime.topics.size).toBe(1));
    const current = ['org', 'owls', 'current'];
    client.setQueryData(current, {});
    client.setQueryData(detail, aServer());
    client.setQueryData(list, page());
    realtime.isConnected = false;
    realtime.onDisconnect?.([]);
    expect([stale(current), stale(detail)]).toEqual([true, true]);
    expect(stale(list)).toBe(false); // the rest once it is back
    live.stop();
  });
  it('subscribes to its own topic and to nothing else', async () => {
    const realtime = aRealtime();
    const live = new Live(client, 'owls', 't1', realtime);
    live.start();
    await vi.waitFor(() => expect([...realtime.topics.keys()]).toEqual(['mamba.tenant.t1']));
    live.stop();
  });
  it('tries again when it is refused, until it is stopped', async () => {
    vi.useFakeTimers();
    const realtime = aRealtime();
    const current = ['org', 'owls', 'current'];
    client.setQueryDefaults(current, { gcTime: Number.POSITIVE_INFINITY }); // no timer of the cache's own
    client.setQueryData(current, {});
    realtime.refuse = true;
    const live = new Live(client, 'owls', 't1', realtime);
    live.start();
    await vi.advanceTimersByTimeAsync(1);
    expect(live.snapshot().lostAt).not.toBeNull();
    expect(stale(current)).toBe(true); // perhaps one is not in it any more
    realtime.refuse = false;
    await vi.advanceTimersByTimeAsync(5000);
    expect(live.snapshot().lostAt).toBeNull();
    expect(realtime.topics.has('mamba.tenant.t1')).toBe(true);
    live.stop();
    expect(vi.getTimerCount()).toBe(0);
  });
});

it('an observer draws again only when something changed', () => {
  client.setQueryData(detail, aServer());
  const drawn = vi.fn();
  const stop = new QueryObserver(client, { queryKey: detail, enabled: false }).subscribe(drawn);
  apply(client, 'owls', { type: 'server', id: 'server000000001', rev: 1, data: aServer() });
  expect(client.getQueryData(detail)).toEqual(aServer());
  stop();
});
