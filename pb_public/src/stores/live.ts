// Realtime of one organisation: applies its messages to the cache and knows since when the picture is old.
import type { QueryClient } from '@tanstack/react-query';
import { pb } from '@/api/client';
import type { Job, Page, Server, ServerDetail, Tenant } from '@/api/views';
import { isNewer, newer, refresh } from './rev';

/** One message of the topic mamba.tenant.<id>. */
export interface Message {
  type: string;
  id?: string;
  rev?: number;
  data?: unknown;
  deleted?: boolean;
}

const finished = new Set(['done', 'dead', 'cancelled', 'superseded']);

/** Applies one message to what is cached for the organisation. Unknown kinds are left alone. */
export function apply(client: QueryClient, org: string, message: Message): void {
  switch (message.type) {
    case 'server':
      if (message.deleted) forgetServer(client, org, message.id ?? '');
      else if (message.data)
        putServer(client, org, { ...(message.data as Server), rev: message.rev ?? (message.data as Server).rev });
      return;
    case 'job':
      if (message.data) putJob(client, org, message.data as Job);
      return;
    case 'activity':
      void client.invalidateQueries({ queryKey: ['org', org, 'activity'] });
      return;
    case 'member': // what somebody may do, perhaps ourselves; who has which role; an invitation that was accepted
      again(client, org, 'members', 'access', 'roles', 'invites', 'current');
      return;
    case 'role': // an invitation to a role ends with it
      again(client, org, 'roles', 'members', 'access', 'invites', 'current');
      return;
    case 'key':
      again(client, org, 'keys');
      return;
    case 'export':
      again(client, org, 'exports');
      return;
    case 'invite':
      again(client, org, 'invites');
      return;
    case 'tenant':
      // Its address may be another one now: the frame goes there before anything is asked of the old one.
      client.setQueryData<Tenant[]>(['tenants'], (held) =>
        held?.map((one) =>
          one.id === message.id ? { ...one, ...(message.data as Partial<Tenant> | undefined) } : one,
        ),
      );
      if (!moved(org, message)) again(client, org, 'current');
      void client.invalidateQueries({ queryKey: ['tenants'] });
      return;
    case 'resync':
      void client.invalidateQueries({ queryKey: ['org', org] });
  }
}

/** Whether a message says that what is shown under `org`, a slug or an id, is at another slug now. */
const moved = (org: string, { id, data }: Message): boolean => {
  const slug = (data as Partial<Tenant> | undefined)?.slug;
  return slug !== undefined && slug !== org && id !== org;
};

/** Asks again for these kinds of queries; those that nobody looks at wait until somebody does. */
export function again(client: QueryClient, org: string, ...kinds: string[]): void {
  for (const kind of kinds) void client.invalidateQueries({ queryKey: ['org', org, kind] });
}

/** Puts a server's view wherever it is shown, if it is newer. Also used for what commands answer. */
export function putServer(client: QueryClient, org: string, server: Server): void {
  client.setQueryData<ServerDetail>(['org', org, 'server', server.id], (held) =>
    held === undefined ? undefined : newer(held, server),
  );
  let missing = false;
  const lists = client.getQueriesData<Page<Server>>({ queryKey: ['org', org, 'servers'] });
  for (const [key, page] of lists) {
    if (!page) continue;
    const held = page.items.find((one) => one.id === server.id);
    // A row that is new, or whose status or name may move it to another place of a filtered or sorted list.
    if (!held || (isNewer(held, server) && (held.status !== server.status || held.name !== server.name)))
      missing = true;
    const items = refresh(page.items, server);
    if (items !== page.items) client.setQueryData(key, { ...page, items });
  }
  if (missing) void client.invalidateQueries({ queryKey: ['org', org, 'servers'] });
}

function forgetServer(client: QueryClient, org: string, id: string): void {
  for (const [key, page] of client.getQueriesData<Page<Server>>({ queryKey: ['org', org, 'servers'] })) {
    if (!page?.items.some((one) => one.id === id)) continue;
    client.setQueryData(key, { ...page, items: page.items.filter((one) => one.id !== id), total: page.total - 1 });
  }
  client.setQueryData<ServerDetail>(['org', org, 'server', id], (held) =>
    held === undefined ? undefined : { ...held, status: 'DELETED', actions: [], rev: Number.MAX_SAFE_INTEGER },
  );
  void client.invalidateQueries({ queryKey: ['org', org, 'current'] }); // what is used of the quota
}

function putJob(client: QueryClient, org: string, job: Job): void {
  client.setQueryData<ServerDetail>(['org', org, 'server', job.subject], (held) => {
    if (held === undefined) return undefined;
    if (held.job && held.job.id === job.id && !isNewer(held.job, job)) return held;
    // A finished job stays only while it is the one that is shown: its error is part of the story.
    if (finished.has(job.state) && held.job && held.job.id !== job.id) return held;
    return { ...held, job };
  });
}

export interface LiveState {
  /** When the connection was lost, in ms; null while it stands or before it ever stood. */
  lostAt: number | null;
}

/** The kinds of queries that messages keep fresh. */
const told = new Set([
  'server',
  'servers',
  'activity',
  'current',
  'members',
  'invites',
  'roles',
  'access',
  'keys',
  'exports',
]);

const RETRY_MS = 5000;
const POLL_MS = 1000;

/** The one subscription of the page. Owns its timers; `stop` ends everything it started. */
export class Live {
  private state: LiveState = { lostAt: null };
  private listeners = new Set<() => void>();
  private stops: (() => void)[] = [];
  private retry: ReturnType<typeof setTimeout> | undefined;
  private poll: ReturnType<typeof setInterval> | undefined;
  private stopped = false;

  constructor(
    private client: QueryClient,
    private org: string,
    private tenant: string,
    private realtime: Pick<typeof pb.realtime, 'subscribe' | 'onDisconnect' | 'isConnected'> = pb.realtime,
  ) {}

  start(): void {
    this.realtime.onDisconnect = () => this.lost();
    void this.subscribe();
  }

  stop(): void {
    this.stopped = true;
    this.realtime.onDisconnect = undefined;
    clearTimeout(this.retry);
    clearInterval(this.poll);
    for (const stop of this.stops) stop();
    this.stops = [];
  }

  snapshot = (): LiveState => this.state;

  watch = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  private async subscribe(): Promise<void> {
    try {
      await this.hold(
        this.realtime.subscribe(`mamba.tenant.${this.tenant}`, (message) =>
          apply(this.client, this.org, message as Message),
        ),
      );
      if (!this.stopped) this.connected();
    } catch {
      if (this.stopped) return;
      this.set({ lostAt: this.state.lostAt ?? Date.now() });
      again(this.client, this.org, 'current'); // perhaps one is not in it any more
      clearInterval(this.poll); // nothing is subscribed: a connection alone would not do
      this.retry = setTimeout(() => void this.subscribe(), RETRY_MS);
    }
  }

  /** Keeps the way to unsubscribe, or uses it at once when we were stopped meanwhile. */
  private async hold(subscribed: Promise<() => Promise<void>>): Promise<void> {
    const unsubscribe = await subscribed;
    const stop = () => void unsubscribe().catch(() => undefined); // the connection is gone already
    if (this.stopped) stop();
    else this.stops.push(stop);
  }

  private connected(): void {
    clearInterval(this.poll);
    const after = this.state.lostAt !== null;
    this.set({ lostAt: null });
    // What changed between an answer and the first subscription was told to nobody, either.
    void this.client.invalidateQueries({
      queryKey: ['org', this.org],
      predicate: ({ queryKey }) => after || told.has(String(queryKey[2])),
    });
  }

  /**
   * The SDK connects again by itself but tells nobody (its own PB_CONNECT would have to be subscribed
   * to, and the panel admits nothing but our topic). Two looks in a row: it is connected a moment
   * before its topics are.
   */
  private lost(): void {
    if (this.stopped) return;
    this.set({ lostAt: this.state.lostAt ?? Date.now() });
    again(this.client, this.org, 'current', 'server'); // perhaps one was cut off: then the SDK is refused from now on
    clearInterval(this.poll);
    let before = false;
    this.poll = setInterval(() => {
      const now = this.realtime.isConnected;
      if (now && before) this.connected();
      before = now;
    }, POLL_MS);
  }

  private set(next: LiveState): void {
    if (next.lostAt === this.state.lostAt) return;
    this.state = next;
    for (const listener of this.listeners) listener();
  }
}
