import { QueryClient } from '@tanstack/react-query';
import { beforeEach, describe, expect, it } from 'vitest';
import type { ApiError } from '@/api/error';
import type { Current, Invite, Person, Roles, Tenant } from '@/api/views';
import { kept } from '@/stores/kept';
import { aMember, anInvite, answering, aRole, aServer, someRoles } from '@/testing';
import { removeMember, setMemberRole } from './changeMember';
import { acceptInvite, invite, resendInvite, revokeInvite } from './invites';
import { forgetTenant, leaveTenant } from './leaveTenant';
import { deleteRole, saveRole } from './saveRole';
import { saveTenant } from './saveTenant';
import { giveAccess, takeAccess } from './setAccess';
import { transferTenant } from './transferTenant';

let client: QueryClient;
beforeEach(() => {
  client = new QueryClient();
});
const members = ['org', 'owls', 'members'];
const invites = ['org', 'owls', 'invites'];
const roles = ['org', 'owls', 'roles'];
const people = () => client.getQueryData<Person[]>(members);
const stale = (key: unknown[]) => client.getQueryState(key)?.isInvalidated;
const failed = (work: Promise<unknown>) =>
  work.then(
    () => Promise.reject(new Error('it succeeded')),
    (error: ApiError) => error,
  );
const tenant: Tenant = {
  id: 't1',
  name: 'Night Owls',
  slug: 'owls',
  status: 'ACTIVE',
  rev: 1,
  role: 'OWNER',
  role_name: 'Owner',
};

describe('saveTenant', () => {
  it('sends what changed, and holds the answer wherever the organisation is named', async () => {
    client.setQueryData<Tenant[]>(['tenants'], [tenant, { ...tenant, id: 't2', slug: 'other' }]);
    client.setQueryData<Partial<Current>>(['org', 'owls', 'current'], { tenant, permissions: ['tenant.update'] });
    const asked = answering({ status: 200, body: { ...tenant, slug: 'birds', rev: 2 } });
    await saveTenant(client, 'owls', { slug: 'birds' });
    expect(asked[0]).toMatchObject({ method: 'PATCH', url: '/api/v1/tenants/owls', body: { slug: 'birds' } });
    expect(asked[0]?.headers.get('Idempotency-Key')).not.toBeNull();
    expect(client.getQueryData<Tenant[]>(['tenants'])?.map((one) => one.slug)).toEqual(['birds', 'other']);
    expect(client.getQueryData<Current>(['org', 'birds', 'current'])).toMatchObject({
      tenant: { slug: 'birds', rev: 2 },
      permissions: ['tenant.update'],
    });
    expect(kept('org')).toBe('birds');
  });
  it('says at the field that an address is taken, and changes nothing', async () => {
    client.setQueryData<Tenant[]>(['tenants'], [tenant]);
    const said = { slug: { code: 'taken', message: 'This one is taken.' } };
    answering({ status: 409, body: { code: 'slug_taken', message: 'Taken.', data: said } });
    expect((await failed(saveTenant(client, 'owls', { slug: 'birds' }))).fields.slug?.message).toBe(
      'This one is taken.',
    );
    expect(client.getQueryData<Tenant[]>(['tenants'])).toEqual([tenant]);
  });
});

describe('leaveTenant', () => {
  it('takes the organisation out of the list, and later everything of it out of the cache', async () => {
    client.setQueryData<Tenant[]>(['tenants'], [tenant]);
    client.setQueryData(members, [aMember()]);
    const asked = answering({ status: 204 });
    await leaveTenant(client, 'owls', 'user00000000001');
    expect(asked[0]).toMatchObject({ method: 'DELETE', url: '/api/v1/tenants/owls/members/user00000000001' });
    expect(client.getQueryData(['tenants'])).toEqual([]);
    forgetTenant(client, 'owls');
    expect(people()).toBeUndefined();
  });
  it('stays in it when the panel refuses', async () => {
    client.setQueryData<Tenant[]>(['tenants'], [tenant]);
    answering({ status: 409, body: { code: 'owner_stays', message: 'The owner cannot leave.' } });
    expect((await failed(leaveTenant(client, 'owls', 'u'))).code).toBe('owner_stays');
    expect(client.getQueryData(['tenants'])).toEqual([tenant]);
  });
});

describe('transferTenant', () => {
  it('names the new owner and asks again for what everybody may do', async () => {
    client.setQueryData<Tenant[]>(['tenants'], [tenant]);
    client.setQueryData(members, [aMember()]);
    client.setQueryData(['org', 'owls', 'current'], {});
    const asked = answering({ status: 200, body: { ...tenant, role: 'ADMIN', role_name: 'Admin' } });
    await transferTenant(client, 'owls', 'user00000000002');
    expect(asked[0]).toMatchObject({ url: '/api/v1/tenants/owls/transfer', body: { user: 'user00000000002' } });
    expect(client.getQueryData<Tenant[]>(['tenants'])?.[0]?.role).toBe('ADMIN');
    expect([stale(members), stale(['org', 'owls', 'current'])]).toEqual([true, true]);
  });
});

describe('setMemberRole', () => {
  const support = aRole({ id: 'role00000000003', key: 'SUPPORT', name: 'Support' });
  it('shows the new role at once, and then the answer', async () => {
    client.setQueryData(members, [aMember(), aMember({ user: 'other' })]);
    const asked = answering({ status: 200, body: aMember({ role: support.id, role_name: 'Support', name: 'Max M.' }) });
    const saving = setMemberRole(client, 'owls', aMember().user, support);
    expect(people()?.map((one) => one.role_name)).toEqual(['Support', 'Member']);
    await saving;
    expect(asked[0]).toMatchObject({ method: 'PATCH', body: { role: support.id } });
    expect(people()?.[0]?.name).toBe('Max M.');
  });
  it('leaves somebody with single servers only', async () => {
    client.setQueryData(members, [aMember()]);
    const asked = answering({ status: 200, body: aMember({ role: '', role_key: '', role_name: '' }) });
    await setMemberRole(client, 'owls', aMember().user, null);
    expect(asked[0]?.body).toEqual({ role: '' });
    expect(people()?.[0]?.role).toBe('');
  });
  it('goes back when the panel refuses', async () => {
    client.setQueryData(members, [aMember()]);
    answering({ status: 403, body: { code: 'role_beyond_yours', message: 'This role may do more than yours.' } });
    const error = await failed(setMemberRole(client, 'owls', aMember().user, support));
    expect(error.message).toBe('This role may do more than yours.');
    expect(people()).toEqual([aMember()]);
  });
});

describe('removeMember', () => {
  it('takes the row away when it is done, and not before', async () => {
    client.setQueryData(members, [aMember(), aMember({ user: 'other' })]);
    answering({ status: 204 });
    const removing = removeMember(client, 'owls', aMember().user);
    expect(people()).toHaveLength(2);
    await removing;
    expect(people()?.map((one) => one.user)).toEqual(['other']);
  });
});

describe('invites', () => {
  it('invites to the whole organisation, or to one server', async () => {
    client.setQueryData<Invite[]>(invites, []);
    const asked = answering(
      { status: 201, body: anInvite() },
      { status: 201, body: anInvite({ id: 'i2', server: 'server000000001' }) },
    );
    await invite(client, 'owls', { email: ' lena@example.org ', role: 'r', server: '' });
    await invite(client, 'owls', { email: 'lena@example.org', role: 'r', server: 'server000000001' });
    expect(asked[0]?.url).toBe('/api/v1/tenants/owls/members/invite');
    expect(asked[0]?.body).toEqual({ email: 'lena@example.org', role: 'r' });
    expect(asked[1]?.body).toEqual({ email: 'lena@example.org', role: 'r', server: 'server000000001' });
    expect(client.getQueryData<Invite[]>(invites)).toHaveLength(2);
  });
  it('shows it once when realtime was quicker than the answer', async () => {
    client.setQueryData<Invite[]>(invites, [anInvite()]);
    answering({ status: 201, body: anInvite() });
    await invite(client, 'owls', { email: 'lena@example.org', role: 'r', server: '' });
    expect(client.getQueryData(invites)).toEqual([anInvite()]);
  });
  it('says in the panel’s words that it was sent a moment ago', async () => {
    const message = 'This invitation has just been sent. Wait a few minutes.';
    answering({ status: 429, body: { code: 'too_soon', message } });
    expect((await failed(resendInvite(client, 'owls', 'i1'))).message).toBe(message);
  });
  it('asks again for the list after sending, and drops what is taken back', async () => {
    client.setQueryData<Invite[]>(invites, [anInvite(), anInvite({ id: 'i2' })]);
    const asked = answering({ status: 204 }, { status: 204 });
    await resendInvite(client, 'owls', anInvite().id);
    expect(stale(invites)).toBe(true);
    await revokeInvite(client, 'owls', anInvite().id);
    expect(asked.map((one) => `${one.method} ${one.url}`)).toEqual([
      `POST /api/v1/tenants/owls/invites/${anInvite().id}/resend`,
      `DELETE /api/v1/tenants/owls/invites/${anInvite().id}`,
    ]);
    expect(client.getQueryData<Invite[]>(invites)?.map((one) => one.id)).toEqual(['i2']);
  });
});

describe('acceptInvite', () => {
  const link = { id: 'i1', token: 'secret' };
  it('joins, and lands in the organisation', async () => {
    client.setQueryData(['tenants'], []);
    const asked = answering({ status: 200, body: tenant });
    expect(await acceptInvite(client, link, '')).toEqual({ org: 'owls', server: '' });
    expect(asked[0]).toMatchObject({ method: 'POST', url: '/api/v1/invites/i1/accept', body: { token: 'secret' } });
    expect(stale(['tenants'])).toBe(true);
    expect(kept('org')).toBe('owls');
  });
  it('lands on the server that it was for', async () => {
    const found = { items: [aServer(), aServer({ id: 'x', name: 'Friday night 2' })], page: 1, per_page: 50, total: 2 };
    const asked = answering({ status: 200, body: tenant }, { status: 200, body: found });
    expect(await acceptInvite(client, link, 'Friday night')).toEqual({ org: 'owls', server: 'server000000001' });
    expect(asked[1]?.headers.get('X-Tenant')).toBe('owls');
    expect(asked[1]?.url).toContain('search=Friday+night');
  });
  it('lands in the list when the server cannot be told, or not be asked for', async () => {
    const twins = { items: [aServer(), aServer({ id: 'x' })], page: 1, per_page: 50, total: 2 };
    answering({ status: 200, body: tenant }, { status: 200, body: twins }, { status: 200, body: tenant });
    expect((await acceptInvite(client, link, 'Friday night')).server).toBe('');
    expect((await acceptInvite(client, link, 'Friday night')).server).toBe('');
  });
});

describe('saveRole', () => {
  const content = { name: ' Console only ', description: '', permissions: ['console.read'] };
  it('makes one, and shows it in the list', async () => {
    client.setQueryData<Roles>(roles, someRoles());
    const made = aRole({ id: 'new', system: false, name: 'Console only' });
    const asked = answering({ status: 201, body: made });
    expect(await saveRole(client, 'owls', '', content)).toEqual(made);
    expect(asked[0]).toMatchObject({ method: 'POST', url: '/api/v1/tenants/owls/roles' });
    expect(asked[0]?.body).toEqual({ name: 'Console only', description: '', permissions: ['console.read'] });
    expect(client.getQueryData<Roles>(roles)?.items.at(-1)?.id).toBe('new');
  });
  it('changes one in its place', async () => {
    const own = aRole({ id: 'own', system: false });
    client.setQueryData<Roles>(roles, { ...someRoles(), items: [own, aRole()] });
    const asked = answering({ status: 200, body: { ...own, name: 'Helpers' } });
    await saveRole(client, 'owls', 'own', { ...content, name: 'Helpers' });
    expect(asked[0]).toMatchObject({ method: 'PATCH', url: '/api/v1/tenants/owls/roles/own' });
    expect(client.getQueryData<Roles>(roles)?.items.map((one) => one.name)).toEqual(['Helpers', aRole().name]);
  });
  it('asks again for the invitations that ended with a deleted one', async () => {
    client.setQueryData<Roles>(roles, someRoles());
    client.setQueryData(invites, [anInvite()]);
    answering({ status: 204 });
    await deleteRole(client, 'owls', 'role0000000000x');
    expect(client.getQueryData<Roles>(roles)?.items.some((one) => one.id === 'role0000000000x')).toBe(false);
    expect(stale(invites)).toBe(true);
  });
  it('keeps one that somebody has', async () => {
    client.setQueryData<Roles>(roles, someRoles());
    answering({ status: 409, body: { code: 'role_in_use', message: 'Somebody has this role.' } });
    expect((await failed(deleteRole(client, 'owls', 'role0000000000x'))).code).toBe('role_in_use');
    expect(client.getQueryData<Roles>(roles)).toEqual(someRoles());
  });
});

describe('setAccess', () => {
  it('gives and takes a role on one server, and has the lists asked for again', async () => {
    client.setQueryData(['org', 'owls', 'access', 's1'], []);
    client.setQueryData(members, []);
    const asked = answering({ status: 200, body: aMember() }, { status: 200, body: aMember() });
    await giveAccess(client, 'owls', 's1', 'u1', 'r1');
    await takeAccess(client, 'owls', 's1', 'u1');
    expect(asked.map((one) => `${one.method} ${one.url}`)).toEqual([
      'PUT /api/v1/servers/s1/access/u1',
      'DELETE /api/v1/servers/s1/access/u1',
    ]);
    expect(asked[0]?.body).toEqual({ role: 'r1' });
    expect(asked[0]?.headers.get('X-Tenant')).toBe('owls');
    expect([stale(['org', 'owls', 'access', 's1']), stale(members)]).toEqual([true, true]);
  });
});
