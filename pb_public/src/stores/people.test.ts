import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { QueryClient } from '@tanstack/react-query';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { fromBody } from '@/api/error';
import { tenantPath } from '@/api/people';
import type { Tenant } from '@/api/views';
import { answering, aRole, aServer, permissions, someRoles } from '@/testing';
import { dropInvitation, invitationOf, invitedEmail, keepInvitation, keptInvitation } from './invitation';
import { apply } from './live';
import { permissionsOf } from './permissions';
import { accessQuery, choiceQuery, invitesQuery, membersQuery, rolesQuery } from './queries';
import { allows, assignable, firstChoice, grouped, heldBy, presetFor, presetOf, presets, roleName } from './roles';
import { left } from './sizing';

// docs/permissions.md is generated from the migrated database.
const documented = [
  ...readFileSync(join(import.meta.dirname, '../../../docs/permissions.md'), 'utf8').matchAll(/^\| `([a-z.]+)`/gm),
].map((m) => m[1] ?? '');

describe('roles', () => {
  it('has words of its own for every permission of the panel, and takes the panel’s for newer ones', () => {
    expect(documented.length).toBeGreaterThan(20);
    for (const p of permissions(documented)) expect(allows(p), p.key).not.toBe(p.description);
    expect(allows({ key: 'weather.make', description: 'Make the weather' })).toBe('Make the weather');
  });
  it('groups what can be allowed, servers first, and each once', () => {
    const groups = grouped(permissions([...documented, 'weather.make']));
    expect(groups.map((g) => g.name)).toEqual([
      'Servers',
      'Console',
      'Organisation',
      'Members',
      'Roles',
      'API keys',
      'Audit log',
      'weather',
    ]);
    expect(groups[0]?.permissions[0]?.key).toBe('server.read');
    expect(
      groups
        .flatMap((g) => g.permissions)
        .map((p) => p.key)
        .sort(),
    ).toEqual([...documented, 'weather.make'].sort());
  });
  it('says what a role may do and leaves out what it may not', () => {
    const held = heldBy(aRole({ permissions: ['server.read', 'console.read'] }), permissions(documented));
    expect(held.map((g) => g.name)).toEqual(['Servers', 'Console']);
    expect(held.flatMap((g) => g.permissions.map(allows))).toEqual(['See servers', 'Read the console']);
    expect(heldBy(aRole({ permissions: [] }), permissions(documented))).toEqual([]);
  });
  it('offers what the viewer may give, and the smallest first', () => {
    const { items } = someRoles();
    expect(assignable(items).map((c) => c.label)).toEqual(['Support', 'Member', 'Console only']);
    expect(firstChoice(items)).toBe('role00000000004');
    expect(firstChoice(items.filter((r) => r.key !== 'MEMBER'))).toBe('role00000000003');
    expect(firstChoice(items.map((r) => ({ ...r, assignable: false })))).toBe('');
  });
  it('calls a member by the role, or by what is left without one', () => {
    expect(roleName({ role: 'x', role_name: 'Admin' })).toBe('Admin');
    expect(roleName({ role: '', role_name: '' })).toBe('Only single servers');
  });
});

describe('presets', () => {
  const all = permissions(documented);
  it('hold only permissions that exist, and let one see the servers they are about', () => {
    for (const preset of presets) {
      const keys = presetFor(preset, all);
      expect(keys, preset.id).toContain('server.read');
      expect(keys.length, preset.id).toBeGreaterThan(2);
      expect(documented, preset.id).toEqual(expect.arrayContaining(keys));
    }
  });
  it('are told from each other, in any order', () => {
    for (const preset of presets) expect(presetOf(presetFor(preset, all).reverse(), all)).toBe(preset);
    expect(presetOf(['server.read'], all)).toBeUndefined();
    expect(presetOf([], all)).toBeUndefined();
  });
  it('say nothing about members, even the largest', () => {
    const keys = presetFor(presets.find((p) => p.id === 'servers') as (typeof presets)[number], all);
    expect(keys.filter((k) => /^(member|role|tenant|audit)/.test(k))).toEqual([]);
    expect(keys).toContain('server.delete');
  });
  it('give nobody more to give than he has', () => {
    const mine = permissions(documented, ['console.write']);
    expect(presetFor(presets[0] as (typeof presets)[number], mine).sort()).toEqual(['console.read', 'server.read']);
  });
});

const active = { status: 'ACTIVE' };

describe('permissions of somebody who was let in for single servers', () => {
  it('reach those servers and not the organisation', () => {
    const granted = ['member.update', 'role.manage', 'server.create', 'server.stop', 'tenant.read'];
    const bound = permissionsOf({ permissions: granted, quota: null, tenant: active });
    expect(granted.filter((p) => bound.can(p as 'tenant.read'))).toEqual(['server.stop']);
    const quota = { servers: 1, memory_mib: 1, cpu_millicores: 1, disk_mib: 1 };
    expect(permissionsOf({ permissions: granted, quota, tenant: active }).can('member.update')).toBe(true);
  });
  it('are not told a quota, which then limits nothing here', () => {
    expect(left(null, null)).toEqual({
      servers: Number.POSITIVE_INFINITY,
      memory_mib: Number.POSITIVE_INFINITY,
      cpu_millicores: Number.POSITIVE_INFINITY,
      disk_mib: Number.POSITIVE_INFINITY,
    });
  });
});

describe('permissions in an organisation that is suspended or being deleted', () => {
  const quota = { servers: 1, memory_mib: 1, cpu_millicores: 1, disk_mib: 1 };
  const look = documented.filter((p) => /\.(read|activity)$/.test(p));
  it.each(['SUSPENDED', 'DELETING'])('%s: reach as far as the panel lets them', (status) => {
    const may = permissionsOf({ permissions: documented, quota, tenant: { status } });
    expect(documented.filter((p) => may.can(p as 'tenant.read'))).toEqual(
      documented.filter((p) => look.includes(p) || p === 'tenant.delete' || p === 'tenant.export'),
    );
    expect(may.actions(aServer({ actions: ['start', 'stop', 'delete'] }))).toEqual([]);
  });
});

describe('realtime', () => {
  let client: QueryClient;
  const kinds = ['members', 'invites', 'roles', 'current', 'servers'];
  const access = ['org', 'owls', 'access', 's1'];
  beforeEach(() => {
    client = new QueryClient();
    for (const kind of kinds) client.setQueryData(['org', 'owls', kind], []);
    client.setQueryData(['org', 'other', 'members'], []);
    client.setQueryData(access, []);
  });
  const stale = (key: unknown[]) => client.getQueryState(key)?.isInvalidated;
  const touched = () => kinds.filter((kind) => stale(['org', 'owls', kind]));

  it('asks again for all that a member’s change is seen in', () => {
    apply(client, 'owls', { type: 'member', id: 'u1', rev: 2 });
    expect(touched()).toEqual(['members', 'invites', 'roles', 'current']);
    expect(stale(access)).toBe(true);
    expect(stale(['org', 'other', 'members'])).toBe(false);
  });
  it('asks again after a role changed or went, its invitations included', () => {
    apply(client, 'owls', { type: 'role', id: 'r1', deleted: true });
    expect(touched()).toEqual(['members', 'invites', 'roles', 'current']);
    expect(stale(access)).toBe(true);
  });
  it('asks for invitations alone after an invitation', () => {
    apply(client, 'owls', { type: 'invite', id: 'i1' });
    expect(touched()).toEqual(['invites']);
    expect(stale(access)).toBe(false);
  });
  it('knows the new address of an organisation before anything asks under the old one', () => {
    const one = { id: 't1', slug: 'owls', name: 'Owls', role: 'OWNER' } as Tenant;
    client.setQueryData<Tenant[]>(['tenants'], [one, { ...one, id: 't2', slug: 'other' }]);
    apply(client, 'owls', { type: 'tenant', id: 't1', data: { id: 't1', slug: 'birds', name: 'Birds' } });
    expect(client.getQueryData<Tenant[]>(['tenants'])).toMatchObject([
      { id: 't1', slug: 'birds', name: 'Birds', role: 'OWNER' },
      { id: 't2', slug: 'other' },
    ]);
    expect(touched()).toEqual([]);
    apply(client, 'owls', { type: 'tenant', id: 't1', data: { id: 't1', slug: 'owls', name: 'Birds' } });
    expect(touched()).toEqual(['current']);
  });
});

describe('invitation', () => {
  afterEach(() => {
    dropInvitation();
    vi.restoreAllMocks();
  });
  it('is found behind the hash, whole or not at all', () => {
    expect(invitationOf('#id=i1&token=a-b_c')).toEqual({ id: 'i1', token: 'a-b_c', email: '' });
    expect(invitationOf('id=i1&token=t')).toEqual({ id: 'i1', token: 't', email: '' });
    expect(invitationOf('#token=t')).toBeNull();
    expect(invitationOf('#id=i1')).toBeNull();
    expect(invitationOf('')).toBeNull();
  });
  it('is kept in this tab, and nowhere that stays', () => {
    keepInvitation({ id: 'i1', token: 't', email: 'ana@example.org' });
    expect(keptInvitation()).toEqual({ id: 'i1', token: 't', email: 'ana@example.org' });
    expect(JSON.stringify({ ...localStorage })).not.toContain('ana@');
    expect(sessionStorage.getItem('mamba.invitation')).toContain('ana@');
    dropInvitation();
    expect(keptInvitation()).toBeNull();
    expect(sessionStorage.getItem('mamba.invitation')).toBeNull();
  });
  it('fills in the address only on the way to the invitation', () => {
    keepInvitation({ id: 'i1', token: 't', email: 'ana@example.org' });
    expect(invitedEmail('/invite')).toBe('ana@example.org');
    expect(invitedEmail('/o/owls/servers')).toBe('');
    expect(invitedEmail(undefined)).toBe('');
    dropInvitation();
    expect(invitedEmail('/invite')).toBe('');
  });
  it('works without storage, until the page is loaded again', () => {
    vi.stubGlobal('sessionStorage', {
      getItem: () => {
        throw new Error('off');
      },
      setItem: () => {
        throw new Error('off');
      },
      removeItem: () => {
        throw new Error('off');
      },
    });
    keepInvitation({ id: 'i1', token: 't', email: '' });
    expect(keptInvitation()?.token).toBe('t');
    dropInvitation();
    expect(keptInvitation()).toBeNull();
  });
  it('does not trust what somebody else wrote there', () => {
    sessionStorage.setItem('mamba.invitation', '{"id":"i1"}');
    expect(keptInvitation()).toBeNull();
    sessionStorage.setItem('mamba.invitation', 'nonsense');
    expect(keptInvitation()).toBeNull();
  });
});

describe('lists that a form chooses from', () => {
  it('asks for servers by name, as many as one answer holds, and keeps what realtime said meanwhile', async () => {
    const client = new QueryClient();
    const asked = answering({
      status: 200,
      body: { items: [aServer({ rev: 1, name: 'Old' })], page: 1, per_page: 200, total: 1 },
    });
    const key = choiceQuery('owls').queryKey;
    client.setQueryData(key, { items: [aServer({ rev: 2, name: 'New' })], page: 1, per_page: 200, total: 1 });
    const { items } = await client.fetchQuery({ ...choiceQuery('owls'), staleTime: 0 });
    expect(asked[0]?.url).toBe('/api/v1/servers?sort=name&per_page=200');
    expect(asked[0]?.headers.get('X-Tenant')).toBe('owls');
    expect(client.getQueryData(key)?.items[0]?.name).toBe('New');
    expect(items).toHaveLength(1);
  });
  it('asks for each list of people under the organisation of the address', async () => {
    const client = new QueryClient();
    const empty = { status: 200, body: { items: [] } };
    const asked = answering(empty, empty, empty, empty);
    await client.fetchQuery(membersQuery('owls'));
    await client.fetchQuery(invitesQuery('owls'));
    await client.fetchQuery(rolesQuery('owls'));
    await client.fetchQuery(accessQuery('owls', 's1'));
    expect(asked.map((one) => one.url)).toEqual([
      '/api/v1/tenants/owls/members',
      '/api/v1/tenants/owls/invites',
      '/api/v1/tenants/owls/roles',
      '/api/v1/servers/s1/access',
    ]);
    expect(asked[3]?.headers.get('X-Tenant')).toBe('owls');
  });
  it('cannot be led to another route by a name in the address', () => {
    expect(tenantPath('owls', 'members', '../../admin')).toBe('tenants/owls/members/..%2F..%2Fadmin');
  });
});

describe('a refusal for haste', () => {
  it('is said in the panel’s words where it knows more than that', () => {
    expect(fromBody(429, { code: 'too_soon', message: 'Just sent.' }).message).toBe('Just sent.');
    expect(fromBody(429, { code: 'too_many_requests', message: 'No.' }).message).toContain('Too many tries');
    expect(fromBody(429, {}).message).toContain('Too many tries');
  });
});
