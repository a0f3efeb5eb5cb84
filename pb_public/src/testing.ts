// What every unit test starts from, and what they share.
import { afterEach, vi } from 'vitest';
import { pb } from '@/api/client';
import type { Invite, Metrics, PermissionInfo, Person, Role, Roles, Server } from '@/api/views';

// jsdom has no media queries and no layout; Mantine asks for the colour scheme and watches sizes.
globalThis.window &&= Object.assign(window, {
  ResizeObserver: class {
    observe() {}
    unobserve() {}
    disconnect() {}
  },
  matchMedia: () => ({ matches: false, addEventListener: () => undefined, removeEventListener: () => undefined }),
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  pb.authStore.clear();
  globalThis.localStorage?.clear(); // node's own tests have none
});

/** A running server, with what the test says differently. */
export function aServer(differs: Partial<Server> = {}): Server {
  return {
    id: 'server000000001',
    tenant: 'tenant000000001',
    rev: 1,
    name: 'Friday night',
    status: 'RUNNING',
    desired_state: 'running',
    suspended: false,
    install_status: 'DONE',
    problem: null,
    progress: null,
    node: { id: 'node00000000001', name: 'us-east-1', location: 'Virginia', status: 'ONLINE' },
    blueprint: { id: 'game00000000001', slug: 'demo', name: 'Demo world', version: '1.0.0', icon_url: '' },
    variant: '',
    limits: { cpu_millicores: 1000, memory_mib: 1024, disk_gib: 4 },
    address: '203.0.113.7:25565',
    ports: [],
    variables: {},
    last_start_at: null,
    last_exit_at: null,
    last_exit_code: null,
    created: '2026-11-22T10:00:00Z',
    actions: ['stop', 'restart', 'kill'],
    ...differs,
  };
}

/** A chart of as many steps as running_ms has, with what the test says differently. */
export function someMetrics(differs: Partial<Metrics> = {}): Metrics {
  const running = differs.running_ms ?? [30_000, 30_000];
  const same = (v: number) => running.map((r) => (r === null ? null : v));
  return {
    range: '1h',
    now_unix_s: 1_800_000_000,
    from_unix_s: 1_800_000_000 - running.length * 30,
    step_s: 30,
    limits: { cpu_millicores: 1000, memory_bytes: 1024 ** 3, disk_bytes: 4 * 1024 ** 3 },
    cpu_millicores: same(250),
    memory_bytes: same(512 * 1024 ** 2),
    net_in_bytes_per_s: same(1024),
    net_out_bytes_per_s: same(2048),
    disk_bytes: same(1024 ** 3),
    running_ms: running,
    ...differs,
  };
}

/** Max, a member of the whole organisation, with what the test says differently. */
export function aMember(differs: Partial<Person> = {}): Person {
  return {
    user: 'user00000000002',
    name: 'Max Member',
    email: 'max@example.org',
    role: 'role00000000004',
    role_key: 'MEMBER',
    role_name: 'Member',
    servers: [],
    invited_by: 'Olivia Owner',
    joined_at: '2026-11-20T10:00:00Z',
    ...differs,
  };
}

export function anInvite(differs: Partial<Invite> = {}): Invite {
  return {
    id: 'invite000000001',
    email: 'lena@example.org',
    role: 'role00000000004',
    role_name: 'Member',
    server: '',
    server_name: '',
    invited_by: 'Olivia Owner',
    expires_at: '2026-12-04T10:00:00Z',
    created: '2026-11-27T10:00:00Z',
    ...differs,
  };
}

/** The role MEMBER, with what the test says differently. */
export function aRole(differs: Partial<Role> = {}): Role {
  return {
    id: 'role00000000004',
    key: 'MEMBER',
    name: 'Member',
    description: 'Sees servers, reads consoles, starts and restarts',
    system: true,
    permissions: ['console.read', 'server.read', 'server.restart', 'server.start', 'tenant.read'],
    members: 1,
    assignable: true,
    ...differs,
  };
}

/** Permissions by their keys; the viewer has all but those. */
export const permissions = (keys: string[], lacks: string[] = []): PermissionInfo[] =>
  keys.map((key) => ({
    key,
    resource: key.split('.')[0] ?? '',
    description: `May ${key}`,
    yours: !lacks.includes(key),
  }));

/** What an admin sees: the owner's role is not his to give, and one role is the organisation's own. */
export function someRoles(differs: Partial<Roles> = {}): Roles {
  const keys = [
    ...['console.read', 'console.write', 'member.invite', 'member.update', 'role.manage', 'server.activity'],
    ...[
      'server.delete',
      'server.read',
      'server.restart',
      'server.start',
      'server.stop',
      'tenant.delete',
      'tenant.read',
    ],
  ];
  return {
    items: [
      aRole({ id: 'role00000000001', key: 'OWNER', name: 'Owner', permissions: keys, assignable: false }),
      aRole({ id: 'role00000000003', key: 'SUPPORT', name: 'Support', members: 0 }),
      aRole(),
      aRole({
        id: 'role0000000000x',
        key: 'role0000000000x',
        name: 'Console only',
        description: '',
        system: false,
        permissions: ['console.read', 'console.write', 'server.read'],
        members: 0,
      }),
    ],
    permissions: permissions(keys, ['tenant.delete']),
    ...differs,
  };
}

export interface Asked {
  url: string;
  method: string;
  headers: Headers;
  body: unknown;
}

/** Answers fetch from a list, in order, and remembers what was asked. */
export function answering(...answers: { status: number; body?: unknown }[]): Asked[] {
  const asked: Asked[] = [];
  vi.stubGlobal('fetch', async (url: string | URL, init: RequestInit = {}) => {
    const body = typeof init.body === 'string' && init.body !== '' ? JSON.parse(init.body) : undefined;
    asked.push({ url: String(url), method: init.method ?? 'GET', headers: new Headers(init.headers), body });
    const next = answers.shift();
    if (!next) throw new TypeError('no connection');
    const text = next.body === undefined ? null : JSON.stringify(next.body);
    return new Response(next.status === 204 ? null : text, {
      status: next.status,
      headers: { 'Content-Type': 'application/json', 'X-Request-Id': 'req1' },
    });
  });
  return asked;
}

/** A token PocketBase's SDK takes for valid. */
export function aToken(lastsS = 3600): string {
  const part = (value: object) => btoa(JSON.stringify(value)).replace(/=+$/, '');
  return `${part({ alg: 'HS256' })}.${part({ exp: Math.floor(Date.now() / 1000) + lastsS, type: 'auth' })}.x`;
}

export const aUser = { id: 'user00000000001', email: 'ana@example.org', name: 'Ana', collectionName: 'users' };
