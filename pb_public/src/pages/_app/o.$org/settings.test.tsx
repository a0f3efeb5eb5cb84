import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';
import { apply } from '@/stores/live';
import { aMember, anInvite, aRole, aUser, someRoles } from '@/testing';

beforeEach(signedIn);
afterEach(() => {
  cleanup();
  notifications.clean();
});

const PATIENCE = { timeout: 10_000 }; // the first page of a file takes seconds on a busy machine
const button = (name: string | RegExp) => screen.getByRole('button', { name }) as HTMLButtonElement;
const field = (name: string) => screen.getByLabelText(name) as HTMLInputElement;
const type = (name: string, value: string) => fireEvent.change(field(name), { target: { value } });
const dialog = async () => within(await screen.findByRole('dialog'));

describe('general', () => {
  it('says what another address means before it is changed, and goes there', async () => {
    const panel = aPanel(anOrganisation());
    const { at } = showPage('/o/owls/settings');
    await screen.findByLabelText('Short name', {}, PATIENCE);
    expect(button('Change the address').disabled).toBe(true);
    expect(screen.queryByText(/old ones no longer lead here/)).toBeNull();
    type('Short name', 'birds');
    expect(screen.getByText(/old ones no longer lead here/)).toBeTruthy();
    const moved = { id: 't1', name: 'Night Owls', slug: 'birds', status: 'ACTIVE', rev: 2, role: 'OWNER' };
    panel.routes['PATCH tenants/owls'] = moved;
    panel.routes['GET tenants'] = { items: [moved] };
    fireEvent.click(button('Change the address'));
    await waitFor(() => expect(at()).toBe('/o/birds/settings'));
    expect(panel.asked.find((one) => one.method === 'PATCH')?.body).toEqual({ slug: 'birds' });
  });
  it('says at the field that an address is taken, and keeps what was typed', async () => {
    aPanel({
      ...anOrganisation(),
      'PATCH tenants/owls': new Answer(409, {
        code: 'slug_taken',
        message: 'Taken.',
        data: { slug: { code: 'taken', message: 'This one is taken.' } },
      }),
    });
    showPage('/o/owls/settings');
    await screen.findByLabelText('Short name', {}, PATIENCE);
    type('Short name', 'Not good!');
    fireEvent.click(button('Change the address'));
    await screen.findByText(/Small letters, numbers and dashes only/);
    type('Short name', 'birds');
    fireEvent.click(button('Change the address'));
    await screen.findByText('This one is taken.');
    expect(field('Short name').value).toBe('birds');
  });
  it('goes along when somebody else changes the address', async () => {
    const panel = aPanel(anOrganisation());
    const { client, at } = showPage('/o/owls/settings/members');
    await screen.findAllByTestId('member', {}, PATIENCE);
    panel.routes['GET tenants'] = { items: [{ id: 't1', name: 'Birds', slug: 'birds', role: 'OWNER' }] };
    apply(client, 'owls', { type: 'tenant', id: 't1', rev: 2, data: { id: 't1', slug: 'birds', name: 'Birds' } });
    await waitFor(() => expect(at()).toBe('/o/birds/settings/members'));
  });
  it('can be looked at by those who may not change it', async () => {
    aPanel(anOrganisation({ permissions: ['tenant.read', 'server.read'] }));
    showPage('/o/owls/settings');
    await screen.findByText(/You can look at these settings/, {}, PATIENCE);
    expect(field('Name of the organisation').disabled).toBe(true);
    expect(screen.queryByRole('button', { name: 'Save changes' })).toBeNull();
  });
});

describe('who was let in for single servers', () => {
  const bound = { permissions: ['tenant.read', 'member.update', 'server.read'], servers: ['s'], quota: null };
  it('is not shown the settings, nor the way there', async () => {
    const panel = aPanel(anOrganisation(bound));
    showPage('/o/owls/settings/members');
    await screen.findByRole('heading', { name: 'These settings are not for you' }, PATIENCE);
    expect(screen.queryByRole('link', { name: 'Settings' })).toBeNull();
    expect(panel.asked.some((one) => /members|roles/.test(one.url))).toBe(false);
  });
  it('leaves from the account page', async () => {
    const panel = aPanel({
      ...anOrganisation({ ...bound, tenant: { ...tenantOf(), role: '', role_name: '' } }),
      [`DELETE tenants/owls/members/${aUser.id}`]: new Answer(204),
    });
    const { at } = showPage('/o/owls/account');
    fireEvent.click(await screen.findByRole('button', { name: 'Leave this organisation' }, PATIENCE));
    panel.routes['GET tenants'] = { items: [] };
    fireEvent.click((await dialog()).getByRole('button', { name: 'Leave this organisation' }));
    await waitFor(() => expect(at()).toBe('/welcome'));
    expect(panel.wrote()).toEqual([`DELETE tenants/owls/members/${aUser.id}`]);
  });
});

const tenantOf = () => ({ id: 't1', name: 'Night Owls', slug: 'owls', status: 'ACTIVE', rev: 1 });

describe('members', () => {
  it('shows everybody, and lets one change what others may do', async () => {
    const max = aMember({
      servers: [{ server: 's1', server_name: 'Friday night', role: 'r', role_name: 'Console only' }],
    });
    const routes = anOrganisation();
    const [ana] = (routes['GET tenants/owls/members'] as { items: unknown[] }).items;
    const panel = aPanel({ ...routes, 'GET tenants/owls/members': { items: [ana, max] } });
    showPage('/o/owls/settings/members');
    const [me, other] = await screen.findAllByTestId('member', {}, PATIENCE);
    expect(me?.textContent).toContain('You');
    expect(within(me as HTMLElement).queryByRole('combobox')).toBeNull(); // nobody changes oneself by mistake
    expect(other?.textContent).toContain('max@example.org');
    expect(other?.textContent).toContain('Friday night: Console only');
    const select = screen.getByLabelText('Role of Max Member') as HTMLSelectElement;
    expect([...select.options].map((o) => o.text)).toEqual([
      'Support',
      'Member',
      'Console only',
      'Only single servers',
    ]);
    panel.routes[`PATCH tenants/owls/members/${max.user}`] = aMember({ role: '', role_key: '', role_name: '' });
    fireEvent.change(select, { target: { value: '' } });
    await screen.findByText(/has no role in the whole organisation any more/);
    panel.routes[`PATCH tenants/owls/members/${max.user}`] = max;
    fireEvent.click(button('Undo'));
    await waitFor(() => expect(panel.asked.filter((one) => one.method === 'PATCH')).toHaveLength(2));
    expect(panel.asked.findLast((one) => one.method === 'PATCH')?.body).toEqual({ role: max.role });
  });
  it('goes back to the old role when the panel refuses, and says why', async () => {
    aPanel({
      ...anOrganisation(),
      [`PATCH tenants/owls/members/${aMember().user}`]: new Answer(403, {
        code: 'role_beyond_yours',
        message: 'This role may do more than yours.',
      }),
    });
    showPage('/o/owls/settings/members');
    const select = (await screen.findByLabelText('Role of Max Member', {}, PATIENCE)) as HTMLSelectElement;
    fireEvent.change(select, { target: { value: 'role00000000003' } });
    await screen.findByText('This role may do more than yours.');
    expect(select.value).toBe('role00000000004');
  });
  it('removes somebody after saying what is lost', async () => {
    const panel = aPanel({
      ...anOrganisation(),
      [`DELETE tenants/owls/members/${aMember().user}`]: new Answer(204),
    });
    showPage('/o/owls/settings/members');
    fireEvent.click(await screen.findByRole('button', { name: 'Remove Max Member' }, PATIENCE));
    const asking = await dialog();
    expect(asking.getByText(/loses all access to this organisation/)).toBeTruthy();
    expect(panel.wrote()).toEqual([]);
    panel.routes['GET tenants/owls/members'] = { items: [] };
    fireEvent.click(asking.getByRole('button', { name: 'Remove' }));
    await waitFor(() => expect(screen.queryByText('Max Member')).toBeNull());
    expect(panel.wrote()).toEqual([`DELETE tenants/owls/members/${aMember().user}`]);
  });
  it('leaves alone whose role may do more, and says so', async () => {
    const items = [aMember({ role: 'role00000000009', role_key: 'x', role_name: 'Boss' })];
    const roles = someRoles();
    aPanel({
      ...anOrganisation(),
      'GET tenants/owls/members': { items },
      'GET tenants/owls/roles': {
        ...roles,
        items: [...roles.items, aRole({ id: 'role00000000009', key: 'x', assignable: false })],
      },
    });
    showPage('/o/owls/settings/members');
    await screen.findByText('This role may do more than yours, so you cannot change it.', {}, PATIENCE);
    expect(screen.queryByRole('button', { name: /^Remove/ })).toBeNull();
  });
  it('is only a list for those who manage nobody', async () => {
    const panel = aPanel(anOrganisation({ permissions: ['tenant.read'] }));
    showPage('/o/owls/settings/members');
    await screen.findAllByTestId('member', {}, PATIENCE);
    expect(screen.queryByRole('combobox')).toBeNull();
    expect(screen.queryByRole('button', { name: /Remove|Send/ })).toBeNull();
    expect(panel.asked.some((one) => one.url.includes('invites'))).toBe(false);
  });
});

describe('invitations', () => {
  it('go to the whole organisation or to one server, and what was typed stays until one is sent', async () => {
    const panel = aPanel({
      ...anOrganisation(),
      'POST tenants/owls/members/invite': new Answer(409, {
        code: 'invite_exists',
        message: 'This address is invited already.',
      }),
    });
    showPage('/o/owls/settings/members');
    await screen.findByLabelText('E-mail address', {}, PATIENCE);
    await screen.findByRole('option', { name: 'Friday night' });
    type('E-mail address', 'nonsense');
    fireEvent.click(button('Send the invitation'));
    await screen.findByText('This does not look like an e-mail address.');
    expect(panel.wrote()).toEqual([]);
    type('E-mail address', 'lena@example.org');
    type('For', 'server000000001');
    fireEvent.click(button('Send the invitation'));
    await screen.findByText('This address is invited already.');
    expect(field('E-mail address').value).toBe('lena@example.org');
    expect(field('E-mail address').getAttribute('aria-invalid')).toBe('true');
    const sent = anInvite({ server: 'server000000001', server_name: 'Friday night' });
    panel.routes['POST tenants/owls/members/invite'] = new Answer(201, sent);
    panel.routes['GET tenants/owls/invites'] = { items: [sent] };
    fireEvent.click(button('Send the invitation'));
    const row = await screen.findByTestId('invite');
    expect(row.textContent).toContain('Member on Friday night');
    expect(row.textContent).toContain('Good until');
    expect(field('E-mail address').value).toBe('');
    expect(panel.asked.findLast((one) => one.method === 'POST')?.body).toEqual({
      email: 'lena@example.org',
      role: 'role00000000004',
      server: 'server000000001',
    });
  });
  it('are sent again and taken back', async () => {
    const one = anInvite();
    const panel = aPanel({
      ...anOrganisation(),
      'GET tenants/owls/invites': { items: [one] },
      [`POST tenants/owls/invites/${one.id}/resend`]: new Answer(429, { code: 'too_soon', message: 'Just sent.' }),
      [`DELETE tenants/owls/invites/${one.id}`]: new Answer(204),
    });
    showPage('/o/owls/settings/members');
    fireEvent.click(await screen.findByRole('button', { name: /^Send again/ }, PATIENCE));
    await screen.findByText('Just sent.');
    panel.routes[`POST tenants/owls/invites/${one.id}/resend`] = new Answer(204);
    fireEvent.click(button(/^Send again/));
    await screen.findByText(/Sent again to lena@example.org/);
    fireEvent.click(button(/^Take back/));
    panel.routes['GET tenants/owls/invites'] = { items: [] };
    fireEvent.click((await dialog()).getByRole('button', { name: 'Take back' }));
    await screen.findByText('Nobody is invited right now.');
  });
  it('are not offered by somebody who can give no role', async () => {
    const roles = someRoles();
    aPanel({
      ...anOrganisation(),
      'GET tenants/owls/roles': { ...roles, items: roles.items.map((r) => ({ ...r, assignable: false })) },
    });
    showPage('/o/owls/settings/members');
    await screen.findByText(/No role can be given by you/, {}, PATIENCE);
    expect(screen.queryByLabelText('E-mail address')).toBeNull();
  });
});

describe('roles', () => {
  it('says in plain words what each may do, and fixes those of the system', async () => {
    aPanel(anOrganisation());
    showPage('/o/owls/settings/roles');
    const cards = await screen.findAllByTestId('role', {}, PATIENCE);
    const card = (name: string) => within(cards.find((c) => c.textContent?.startsWith(name)) as HTMLElement);
    expect(card('Console only').getByText('Read the console · Type commands')).toBeTruthy();
    expect(card('Member').getByText('Built in')).toBeTruthy();
    expect(card('Member').queryByRole('button')).toBeNull();
    expect(card('Console only').getByRole('button', { name: 'Edit the role Console only' })).toBeTruthy();
  });
  it('makes one from a preset, and offers nothing that one has not got', async () => {
    const panel = aPanel(anOrganisation());
    showPage('/o/owls/settings/roles');
    fireEvent.click(await screen.findByRole('button', { name: 'New role' }, PATIENCE));
    const beyond = screen.getByRole('checkbox', { name: 'Delete it' }) as HTMLInputElement;
    expect(beyond.disabled).toBe(true);
    expect(screen.getByText('You may not do this yourself, so you cannot give it.')).toBeTruthy();
    fireEvent.click(button(/^Start and stop/));
    expect(field('Name of the role').value).toBe('Start and stop');
    fireEvent.click(button(/^Just looking/));
    expect(field('Name of the role').value).toBe('Just looking'); // nobody typed it
    type('Name of the role', 'Console only');
    fireEvent.click(button(/^Just looking/));
    expect(field('Name of the role').value).toBe('Just looking');
    type('Name of the role', 'Guests');
    fireEvent.click(button(/^Start and stop/));
    expect(field('Name of the role').value).toBe('Guests');
    fireEvent.click(screen.getByRole('checkbox', { name: 'See servers' }));
    expect(screen.getByText(/Without “See servers”/)).toBeTruthy();
    fireEvent.click(screen.getByRole('checkbox', { name: 'See servers' }));
    panel.routes['POST tenants/owls/roles'] = new Answer(409, {
      code: 'role_name_taken',
      message: 'Taken.',
      data: { name: { code: 'taken', message: 'There is a role of that name.' } },
    });
    fireEvent.click(button('Make the role'));
    await screen.findByText('There is a role of that name.');
    expect(screen.queryByText(/Without “See servers”/)).toBeNull();
    panel.routes['POST tenants/owls/roles'] = new Answer(201, aRole({ id: 'new', system: false, name: 'Guests' }));
    fireEvent.click(button('Make the role'));
    await screen.findByText('The role Guests is there. Give it to somebody.');
    expect(panel.asked.findLast((one) => one.method === 'POST')?.body).toEqual({
      name: 'Guests',
      description: '',
      permissions: ['server.read', 'server.restart', 'server.start', 'server.stop'],
    });
    expect(screen.queryByRole('button', { name: 'Make the role' })).toBeNull();
  });
  it('changes one, with what it held', async () => {
    const panel = aPanel(anOrganisation());
    showPage('/o/owls/settings/roles');
    fireEvent.click(await screen.findByRole('button', { name: 'Edit the role Console only' }, PATIENCE));
    expect((screen.getByRole('checkbox', { name: 'Type commands' }) as HTMLInputElement).checked).toBe(true);
    expect(screen.queryByText('Start from')).toBeNull();
    fireEvent.click(screen.getByRole('checkbox', { name: 'Type commands' }));
    panel.routes['PATCH tenants/owls/roles/role0000000000x'] = aRole({ id: 'role0000000000x', system: false });
    fireEvent.click(button('Save changes'));
    await screen.findByText(/is saved. It counts from now on/);
    expect(panel.asked.find((one) => one.method === 'PATCH')?.body).toMatchObject({
      permissions: ['console.read', 'server.read'],
    });
  });
  it('deletes one that nobody has, and says why another stays', async () => {
    const roles = someRoles();
    const used = aRole({ id: 'used', name: 'Helpers', system: false, members: 2 });
    const above = aRole({ id: 'above', name: 'Bosses', system: false, assignable: false });
    const panel = aPanel({
      ...anOrganisation(),
      'GET tenants/owls/roles': { ...roles, items: [...roles.items, used, above] },
      'DELETE tenants/owls/roles/role0000000000x': new Answer(204),
    });
    showPage('/o/owls/settings/roles');
    await screen.findAllByTestId('role', {}, PATIENCE);
    expect(button('Delete the role Helpers').disabled).toBe(true);
    expect(screen.getByText(/2 members have it/)).toBeTruthy();
    expect(screen.queryByRole('button', { name: 'Edit the role Bosses' })).toBeNull();
    expect(screen.getByText('It may do more than you, so you cannot change it.')).toBeTruthy();
    fireEvent.click(button('Delete the role Console only'));
    fireEvent.click((await dialog()).getByRole('button', { name: 'Delete' }));
    await screen.findByText('The role Console only is deleted.');
    expect(panel.wrote()).toEqual(['DELETE tenants/owls/roles/role0000000000x']);
  });
});

describe('danger zone', () => {
  it('hands over to a chosen member once the name is typed and one has shown who one is', async () => {
    const panel = aPanel({
      ...anOrganisation(),
      'GET account/factors': { totp: false, backup_codes: 0, passkeys: [], passkeys_at: null, proven_until: null },
      'POST tenants/owls/transfer': new Answer(403, { code: 'proof_required', message: 'Show it.' }),
      'POST account/proof': { proven_until: '2026-11-27T12:00:00Z' },
    });
    showPage('/o/owls/settings/danger');
    const select = await screen.findByLabelText('New owner', {}, PATIENCE);
    expect(button('Leave this organisation').disabled).toBe(true); // the owner
    expect(button('Hand over…').disabled).toBe(true);
    fireEvent.change(select, { target: { value: aMember().user } });
    fireEvent.click(button('Hand over…'));
    const asking = await dialog();
    expect(asking.getByText(/Max Member becomes the owner of Night Owls/)).toBeTruthy();
    const confirm = asking.getByRole('button', { name: 'Hand the organisation over' }) as HTMLButtonElement;
    expect(confirm.disabled).toBe(true);
    fireEvent.change(asking.getByRole('textbox'), { target: { value: 'Night Owls' } });
    fireEvent.click(confirm);
    const password = await screen.findByLabelText('Password', {}, PATIENCE);
    panel.routes['POST tenants/owls/transfer'] = tenantOf();
    fireEvent.change(password, { target: { value: 'secret words' } });
    fireEvent.submit(password.closest('form') as HTMLFormElement);
    await screen.findByText('Max Member owns Night Owls now.', {}, PATIENCE);
    const asked = panel.asked.filter((one) => one.url === 'tenants/owls/transfer').map((one) => one.body);
    expect(asked).toEqual([{ user: aMember().user }, { user: aMember().user }]);
  });
  it('lets everybody else leave, and nobody but the owner hand over', async () => {
    const tenant = { ...tenantOf(), role: 'MEMBER', role_name: 'Member' };
    const panel = aPanel({
      ...anOrganisation({ tenant, permissions: ['tenant.read'] }),
      [`DELETE tenants/owls/members/${aUser.id}`]: new Answer(204),
    });
    const { at } = showPage('/o/owls/settings/danger');
    fireEvent.click(await screen.findByRole('button', { name: 'Leave this organisation' }, PATIENCE));
    expect(screen.queryByText('Hand the organisation over')).toBeNull();
    const asking = await dialog();
    expect(asking.getByText(/You will not see Night Owls/)).toBeTruthy();
    panel.routes['GET tenants'] = { items: [] };
    fireEvent.click(asking.getByRole('button', { name: 'Leave this organisation' }));
    await waitFor(() => expect(at()).toBe('/welcome'));
  });
});

describe('the end of an organisation', () => {
  const permissions = ['tenant.read', 'tenant.delete', 'tenant.export'];
  const mine = { ...tenantOf(), role: 'OWNER', role_name: 'Owner' };
  const doomed = { ...mine, status: 'DELETING', delete_at: '2026-12-27T12:00:00Z' };
  it('is asked for with the name typed and who one is shown, and says until when it can be kept', async () => {
    const panel = aPanel({
      ...anOrganisation({ permissions }),
      'GET tenants/owls/exports': { items: [] },
      'GET account/factors': { totp: false, backup_codes: 0, passkeys: [], passkeys_at: null, proven_until: null },
      'POST tenants/owls/delete': new Answer(403, { code: 'proof_required', message: 'Show it.' }),
      'POST account/proof': { proven_until: '2026-11-27T12:00:00Z' },
    });
    showPage('/o/owls/settings/danger');
    fireEvent.click(await screen.findByRole('button', { name: 'Delete…' }, PATIENCE));
    const asking = await dialog();
    expect(asking.getByText(/all servers of Night Owls with their files and worlds/)).toBeTruthy();
    const confirm = asking.getByRole('button', { name: 'Delete this organisation' }) as HTMLButtonElement;
    expect(confirm.disabled).toBe(true);
    fireEvent.change(asking.getByRole('textbox'), { target: { value: 'Night Owls' } });
    fireEvent.click(confirm);
    const password = await screen.findByLabelText('Password', {}, PATIENCE);
    panel.routes['POST tenants/owls/delete'] = doomed;
    panel.routes['GET tenants'] = { items: [doomed] };
    panel.routes['GET tenants/current'] = { ...(panel.routes['GET tenants/current'] as object), tenant: doomed };
    fireEvent.change(password, { target: { value: 'secret words' } });
    fireEvent.submit(password.closest('form') as HTMLFormElement);
    await screen.findByText(/Night Owls is going to be deleted on/, {}, PATIENCE);
    expect(panel.asked.filter((one) => one.url === 'tenants/owls/delete').map((one) => one.body)).toEqual([
      { name: 'Night Owls' },
      { name: 'Night Owls' },
    ]);
    expect(screen.queryByRole('button', { name: 'Delete…' })).toBeNull();
  });
  it('is taken back from any page by who may', async () => {
    const panel = aPanel({ ...anOrganisation({ permissions, tenant: doomed }), 'DELETE tenants/owls/delete': mine });
    showPage('/o/owls/settings');
    fireEvent.click(await screen.findByRole('button', { name: 'Keep it' }, PATIENCE));
    panel.routes['GET tenants/current'] = anOrganisation({ permissions })['GET tenants/current'];
    await screen.findByText('Night Owls is kept.');
    await waitFor(() => expect(screen.queryByText(/is going to be deleted on/)).toBeNull());
    expect(panel.wrote()).toEqual(['DELETE tenants/owls/delete']);
  });
  it('shows a member when, and neither an archive nor a way back', async () => {
    aPanel(
      anOrganisation({ permissions: ['tenant.read'], tenant: { ...doomed, role: 'MEMBER', role_name: 'Member' } }),
    );
    showPage('/o/owls/settings/danger');
    await screen.findByText(/Night Owls is going to be deleted on/, {}, PATIENCE);
    await screen.findByRole('button', { name: 'Leave this organisation' });
    for (const name of ['Keep it', 'Keep this organisation', 'Make an archive', 'Delete…'])
      expect(screen.queryByRole('button', { name })).toBeNull();
  });
  it('offers nothing that the panel can only refuse', async () => {
    const none = { 'GET servers': { items: [], page: 1, per_page: 30, total: 0 } };
    const panel = aPanel({ ...anOrganisation({ tenant: doomed }), ...none });
    const { router } = showPage('/o/owls/servers');
    await screen.findByText('Night Owls has none, and none can be created now.', {}, PATIENCE);
    expect(screen.queryByRole('link', { name: 'New server' })).toBeNull();
    await router.navigate({ to: '/o/$org/servers/new', params: { org: 'owls' } });
    await screen.findByText(/Nothing can be created in Night Owls now/, {}, PATIENCE);
    await router.navigate({ to: '/o/$org/settings', params: { org: 'owls' } });
    await waitFor(() => expect(field('Name of the organisation').disabled).toBe(true), PATIENCE);
    expect(screen.queryByText(/An owner or admin can/)).toBeNull(); // he is one
    expect(screen.queryByRole('link', { name: 'API keys' })).toBeNull();
    await router.navigate({ to: '/o/$org/settings/members', params: { org: 'owls' } });
    await screen.findByText('Max Member', {}, PATIENCE);
    expect(screen.queryByRole('button', { name: /Remove|Send the invitation/ })).toBeNull();
    await router.navigate({ to: '/o/$org/settings/danger', params: { org: 'owls' } });
    await screen.findByRole('button', { name: 'Keep this organisation' }, PATIENCE);
    expect(screen.queryByText(/Hand it over first/)).toBeNull();
    expect(panel.wrote()).toEqual([]);
  });
  it('lets its owner take everything along first', async () => {
    const ready = {
      id: 'export000000001',
      status: 'READY',
      bytes: 2_097_152,
      created: '2026-11-27T10:00:00Z',
      finished_at: '2026-11-27T10:00:09Z',
      expires_at: '2026-12-04T10:00:09Z',
      rev: 2,
    };
    const panel = aPanel({
      ...anOrganisation({ permissions }),
      'GET tenants/owls/exports': { items: [{ ...ready, id: 'old', status: 'FAILED' }] },
      'POST tenants/owls/export': new Answer(409, { code: 'export_running', message: 'An archive is being made.' }),
      'POST tenants/owls/exports/export000000001/token': { token: 'once' },
      'GET tenants/owls/exports/export000000001/download': new Answer(404, {
        code: 'export_not_found',
        message: 'There is no such archive, or it has expired.',
      }),
    });
    const { client } = showPage('/o/owls/settings/danger');
    await screen.findByText(/This one could not be made/, {}, PATIENCE);
    fireEvent.click(button('Make an archive'));
    await screen.findByText('An archive is being made.');
    const running = { ...ready, status: 'RUNNING' };
    panel.routes['POST tenants/owls/export'] = new Answer(202, running);
    panel.routes['GET tenants/owls/exports'] = { items: [running] };
    fireEvent.click(button('Make an archive'));
    await screen.findByText(/Being made. You can leave this page/);
    await waitFor(() => expect(button('Make an archive').disabled).toBe(true));
    panel.routes['GET tenants/owls/exports'] = { items: [ready] };
    apply(client, 'owls', { type: 'export', id: ready.id, rev: 2 });
    fireEvent.click(await screen.findByRole('button', { name: 'Download' }));
    await screen.findByText('There is no such archive, or it has expired.');
    const download = panel.asked.find((one) => one.url.endsWith('/download'));
    expect(download?.headers.get('X-Download-Token')).toBe('once');
    expect(download?.url).not.toContain('once');
  });
});

describe('what cannot be loaded', () => {
  const broken = () => new Answer(500, { code: 'internal', message: 'x', request_id: 'req42' });
  it.each([
    ['members', 'GET tenants/owls/members'],
    ['members', 'GET tenants/owls/roles'],
    ['members', 'GET tenants/owls/invites'],
    ['roles', 'GET tenants/owls/roles'],
  ])('says so on the page of %s (%s), and is there after another try', async (page, route) => {
    const whole = anOrganisation();
    const panel = aPanel({ ...whole, [route]: broken() });
    showPage(`/o/owls/settings/${page}`);
    await screen.findByRole('heading', { name: 'This could not be loaded' }, PATIENCE);
    expect(screen.getByText('req42')).toBeTruthy();
    panel.routes[route] = whole[route];
    fireEvent.click(button('Try again'));
    await waitFor(() => expect(screen.queryByRole('heading', { name: 'This could not be loaded' })).toBeNull());
    await screen.findAllByTestId(page === 'roles' ? 'role' : 'member');
  });
  it('leaves what was typed into a role, when it cannot be saved', async () => {
    aPanel({ ...anOrganisation(), 'POST tenants/owls/roles': broken() });
    showPage('/o/owls/settings/roles');
    fireEvent.click(await screen.findByRole('button', { name: 'New role' }, PATIENCE));
    fireEvent.click(button(/^Console only/));
    fireEvent.click(button('Make the role'));
    await screen.findByText(/The panel could not do this/);
    expect(field('Name of the role').value).toBe('Console only');
    fireEvent.click(button('Cancel'));
    await waitFor(() => expect(screen.queryByLabelText('Name of the role')).toBeNull());
  });
});

describe('the name', () => {
  it('is changed, and changed back', async () => {
    const named = (name: string) => ({ id: 't1', name, slug: 'owls', status: 'ACTIVE', rev: 2, role: 'OWNER' });
    const panel = aPanel({ ...anOrganisation(), 'PATCH tenants/owls': named('Birds') });
    showPage('/o/owls/settings');
    await screen.findByLabelText('Name of the organisation', {}, PATIENCE);
    type('Name of the organisation', '  ');
    fireEvent.click(button('Save changes'));
    await screen.findByText('Give it a name.');
    type('Name of the organisation', ' Birds ');
    fireEvent.click(button('Save changes'));
    await screen.findByText('The organisation is called Birds now.');
    expect(screen.getAllByRole('button', { name: 'Switch organisation. Now: Birds' }).length).toBeGreaterThan(0);
    panel.routes['PATCH tenants/owls'] = named('Night Owls');
    fireEvent.click(button('Undo'));
    await waitFor(() =>
      expect(panel.asked.filter((one) => one.method === 'PATCH').map((one) => one.body)).toEqual([
        { name: 'Birds' },
        { name: 'Night Owls' },
      ]),
    );
    expect(field('Name of the organisation').value).toBe('Night Owls');
  });
});

describe('the danger zone, when it is refused', () => {
  it('keeps the dialog and what was typed, and says why', async () => {
    aPanel({
      ...anOrganisation(),
      'POST tenants/owls/transfer': new Answer(409, {
        code: 'email_unverified',
        message: 'This member has not confirmed the e-mail address yet.',
      }),
    });
    showPage('/o/owls/settings/danger');
    fireEvent.change(await screen.findByLabelText('New owner', {}, PATIENCE), { target: { value: aMember().user } });
    fireEvent.click(button('Hand over…'));
    const asking = await dialog();
    fireEvent.change(asking.getByRole('textbox'), { target: { value: 'Night Owls' } });
    fireEvent.click(asking.getByRole('button', { name: 'Hand the organisation over' }));
    await screen.findByText('This member has not confirmed the e-mail address yet.');
    expect((asking.getByRole('textbox') as HTMLInputElement).value).toBe('Night Owls');
  });
  it('says to whom nothing can be handed over', async () => {
    const routes = anOrganisation();
    const [ana] = (routes['GET tenants/owls/members'] as { items: unknown[] }).items;
    aPanel({ ...routes, 'GET tenants/owls/members': { items: [ana] } });
    showPage('/o/owls/settings/danger');
    await screen.findByText('There is no other member yet. Invite somebody first.', {}, PATIENCE);
    expect(screen.queryByLabelText('New owner')).toBeNull();
  });
});

it('says so when one was removed while looking on', async () => {
  const panel = aPanel(anOrganisation());
  const { client } = showPage('/o/owls/settings/members');
  await screen.findAllByTestId('member', {}, PATIENCE);
  panel.routes['GET tenants/current'] = new Answer(404, { code: 'tenant_not_found', message: 'No.' });
  panel.routes['GET tenants'] = { items: [] };
  apply(client, 'owls', { type: 'member', id: aUser.id, deleted: true });
  await screen.findAllByText('This organisation does not exist, or you are not in it', {}, PATIENCE);
  expect(screen.queryByTestId('member')).toBeNull();
});
