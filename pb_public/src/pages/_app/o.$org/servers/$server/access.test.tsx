import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';
import { apply } from '@/stores/live';
import { aMember, anInvite } from '@/testing';

beforeEach(signedIn);
afterEach(() => {
  cleanup();
  notifications.clean();
});

const PATIENCE = { timeout: 10_000 };
const PAGE = '/o/owls/servers/server000000001/access';
const grant = {
  server: 'server000000001',
  server_name: 'Friday night',
  role: 'role0000000000x',
  role_name: 'Console only',
};
const fred = aMember({
  user: 'user00000000003',
  name: 'Fred Friend',
  email: 'fred@example.org',
  role: '',
  role_key: '',
  role_name: '',
  servers: [grant],
});
const route = 'servers/server000000001/access';
const letIn = () => ({ ...anOrganisation(), [`GET ${route}`]: { items: [fred] } });
const button = (name: string | RegExp) => screen.getByRole('button', { name }) as HTMLButtonElement;

it('says what it is for while nobody was let in', async () => {
  aPanel(anOrganisation());
  showPage(PAGE);
  await screen.findByRole('heading', { name: 'Nobody was let in for this server alone' }, PATIENCE);
  expect(screen.getByText('Whoever has a role in the whole organisation has it here, too.')).toBeTruthy();
});

it('changes what somebody may do here, with a way back', async () => {
  const panel = aPanel({ ...letIn(), [`PUT ${route}/${fred.user}`]: fred });
  showPage(PAGE);
  const select = await screen.findByLabelText('Role of Fred Friend on this server', {}, PATIENCE);
  expect([...(select as HTMLSelectElement).options].map((o) => o.text)).not.toContain('Only single servers');
  fireEvent.change(select, { target: { value: 'role00000000003' } });
  await screen.findByText('Fred Friend is Support on this server now.');
  fireEvent.click(button('Undo'));
  const puts = () => panel.asked.filter((one) => one.method === 'PUT').map((one) => one.body);
  await waitFor(() => expect(puts()).toEqual([{ role: 'role00000000003' }, { role: 'role0000000000x' }]));
  expect(panel.asked.find((one) => one.method === 'PUT')?.headers.get('X-Tenant')).toBe('owls');
});

it('takes it away, says what stays, and follows by itself', async () => {
  const both = { ...fred, role: 'role00000000004', role_key: 'MEMBER', role_name: 'Member' };
  const panel = aPanel({
    ...letIn(),
    'GET tenants/owls/members': { items: [both] },
    [`DELETE ${route}/${fred.user}`]: both,
  });
  const { client } = showPage(PAGE);
  fireEvent.click(await screen.findByRole('button', { name: 'Take away the access of Fred Friend' }, PATIENCE));
  const dialog = within(await screen.findByRole('dialog'));
  expect(dialog.getByText(/loses the role Console only on Friday night/).textContent).toContain(
    'The role Member in the whole organisation stays.',
  );
  panel.routes[`GET ${route}`] = { items: [] };
  fireEvent.click(dialog.getByRole('button', { name: 'Take away' }));
  await screen.findByRole('heading', { name: 'Nobody was let in for this server alone' });
  panel.routes[`GET ${route}`] = { items: [fred] };
  apply(client, 'owls', { type: 'member', id: fred.user, rev: 3 });
  await screen.findByTestId('access');
});

it('lets a member in, and offers only those who are not in and not the owner', async () => {
  const panel = aPanel({ ...anOrganisation(), [`PUT ${route}/${aMember().user}`]: aMember() });
  showPage(PAGE);
  fireEvent.click(await screen.findByRole('radio', { name: 'A member' }, PATIENCE));
  const person = screen.getByLabelText('Member') as HTMLSelectElement;
  expect([...person.options].map((o) => o.text)).toEqual(['Choose a member', 'Max Member (max@example.org)']);
  expect(button('Give access').disabled).toBe(true);
  fireEvent.change(person, { target: { value: aMember().user } });
  fireEvent.change(screen.getByLabelText('Role'), { target: { value: 'role0000000000x' } });
  fireEvent.click(button('Give access'));
  await screen.findByText('Max Member was let in.');
  expect(panel.asked.find((one) => one.method === 'PUT')).toMatchObject({
    url: `${route}/${aMember().user}`,
    body: { role: 'role0000000000x' },
  });
});

it('says at the role that it may do more than one’s own', async () => {
  const message = 'This role may do more than yours.';
  aPanel({
    ...anOrganisation(),
    [`PUT ${route}/${aMember().user}`]: new Answer(403, { code: 'role_beyond_yours', message }),
  });
  showPage(PAGE);
  fireEvent.click(await screen.findByRole('radio', { name: 'A member' }, PATIENCE));
  fireEvent.change(screen.getByLabelText('Member'), { target: { value: aMember().user } });
  fireEvent.click(button('Give access'));
  await screen.findByText(message);
  expect(screen.getByLabelText('Role').getAttribute('aria-invalid')).toBe('true');
  expect((screen.getByLabelText('Member') as HTMLSelectElement).value).toBe(aMember().user);
});

it('invites by mail to this server alone, and shows who is invited to it', async () => {
  const here = anInvite({ server: 'server000000001', server_name: 'Friday night' });
  const panel = aPanel({
    ...anOrganisation(),
    'GET tenants/owls/invites': { items: [anInvite({ id: 'i2', email: 'whole@example.org' })] },
    'POST tenants/owls/members/invite': new Answer(201, here),
  });
  showPage(PAGE);
  const email = (await screen.findByLabelText('E-mail address', {}, PATIENCE)) as HTMLInputElement;
  expect(screen.queryByLabelText('For')).toBeNull();
  expect(screen.queryByText('whole@example.org')).toBeNull();
  fireEvent.change(email, { target: { value: 'lena@example.org' } });
  panel.routes['GET tenants/owls/invites'] = { items: [here] };
  fireEvent.click(button('Send the invitation'));
  expect((await screen.findByTestId('invite')).textContent).toContain('lena@example.org');
  expect(panel.asked.find((one) => one.method === 'POST')?.body).toMatchObject({ server: 'server000000001' });
});

it('shows a role that is beyond one’s own without a way to change it', async () => {
  const boss = { ...fred, servers: [{ ...grant, role: 'role00000000001', role_name: 'Boss' }] };
  aPanel({ ...anOrganisation(), [`GET ${route}`]: { items: [boss] } });
  showPage(PAGE);
  const row = within(await screen.findByTestId('access', {}, PATIENCE));
  expect(row.getByText('Boss')).toBeTruthy();
  expect(row.getByText('This role may do more than yours, so you cannot change it.')).toBeTruthy();
  expect(row.queryByRole('combobox')).toBeNull();
  expect(row.queryByRole('button')).toBeNull();
});

it('offers members only to those who may not invite', async () => {
  const panel = aPanel(anOrganisation({ permissions: ['tenant.read', 'server.read', 'member.update'] }));
  showPage(PAGE);
  await screen.findByLabelText('Member', {}, PATIENCE);
  expect(screen.queryByLabelText('E-mail address')).toBeNull();
  expect(screen.queryByText('No role fits?')).toBeNull();
  expect(panel.asked.some((one) => one.url.includes('invites'))).toBe(false);
});

it('says that everybody is in already', async () => {
  aPanel({ ...letIn(), 'GET tenants/owls/members': { items: [fred] } });
  showPage(PAGE);
  fireEvent.click(await screen.findByRole('radio', { name: 'A member' }, PATIENCE));
  expect(screen.getByText('Every member was let in for this server already.')).toBeTruthy();
});

it('says what could not be loaded, and tries again', async () => {
  const panel = aPanel({ ...letIn(), [`GET ${route}`]: new Answer(500, {}) });
  showPage(PAGE);
  fireEvent.click(await screen.findByRole('button', { name: 'Try again' }, PATIENCE));
  panel.routes[`GET ${route}`] = { items: [fred] };
  await waitFor(() => {
    const again = screen.queryByRole('button', { name: 'Try again' });
    if (again) fireEvent.click(again);
    expect(screen.getByTestId('access')).toBeTruthy();
  }, PATIENCE);
});

it('says why an access could not be taken away, and leaves it in the list', async () => {
  aPanel({
    ...letIn(),
    [`DELETE ${route}/${fred.user}`]: new Answer(404, {
      code: 'member_not_found',
      message: 'There is no such member.',
    }),
  });
  showPage(PAGE);
  fireEvent.click(await screen.findByRole('button', { name: 'Take away the access of Fred Friend' }, PATIENCE));
  fireEvent.click(within(await screen.findByRole('dialog')).getByRole('button', { name: 'Take away' }));
  await screen.findByText('There is no such member.');
  expect(screen.getByTestId('access')).toBeTruthy();
});

it('is not there for those who manage no members', async () => {
  const panel = aPanel(anOrganisation({ permissions: ['tenant.read', 'server.read'] }));
  showPage(PAGE);
  await screen.findByText('Who may use this server is shown to those who manage members.', {}, PATIENCE);
  expect(screen.queryByRole('link', { name: 'Access' })).toBeNull();
  expect(panel.asked.some((one) => one.url.includes('/access'))).toBe(false);
});

it('says that the server is gone when the access to it was taken away', async () => {
  const panel = aPanel(anOrganisation());
  const { client } = showPage('/o/owls/servers/server000000001/settings');
  await screen.findByRole('heading', { name: 'Friday night' }, PATIENCE);
  panel.routes['GET servers/server000000001'] = new Answer(404, { code: 'server_not_found', message: 'No.' });
  apply(client, 'owls', { type: 'resync' });
  await screen.findByRole('heading', { name: 'This server does not exist', level: 1 });
});
