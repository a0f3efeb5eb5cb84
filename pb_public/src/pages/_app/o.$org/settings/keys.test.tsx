import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { addressesOf } from '@/actions/keys';
import type { ApiKey } from '@/api/views';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';

beforeEach(signedIn);
afterEach(() => {
  cleanup();
  notifications.clean();
});

const PATIENCE = { timeout: 20_000 };
const secret = `mk_${'a'.repeat(33)}`;
const aKey: ApiKey = {
  id: 'key000000000001',
  name: 'Nightly restart',
  hint: 'mk_abcdef',
  user: 'u',
  user_name: 'Ana',
  permissions: ['server.read', 'server.restart'],
  servers: [],
  addresses: ['203.0.113.0/24'],
  created: '2026-11-27T10:00:00Z',
  expires_at: '2027-02-25T10:00:00Z',
  last_used: '2026-11-27T11:00:00Z',
  last_address: '203.0.113.7',
  expired: false,
};
const permissions = [
  { key: 'server.read', resource: 'server', description: 'See servers', yours: true },
  { key: 'server.restart', resource: 'server', description: 'Restart', yours: true },
  { key: 'server.delete', resource: 'server', description: 'Delete', yours: false },
];
const manager = (items: ApiKey[]) => ({
  ...anOrganisation({ permissions: ['tenant.read', 'key.manage', 'server.read'] }),
  'GET tenants/owls/keys': { items, permissions },
});
const button = (name: string | RegExp) => screen.getByRole('button', { name });

describe('the API keys of an organisation', () => {
  it('says of each what it may, from where, until when and when it was used', async () => {
    aPanel(manager([aKey, { ...aKey, id: 'k2', name: 'Old', expired: true, last_used: '', addresses: [] }]));
    showPage('/o/owls/settings/keys');
    const [one, old] = await screen.findAllByTestId('key', {}, PATIENCE);
    for (const text of [
      'Nightly restart',
      'mk_abcdef…',
      'made by Ana',
      'See servers, Restart',
      '203.0.113.0/24',
      '203.0.113.7',
    ])
      expect(one?.textContent).toContain(text);
    expect(old?.textContent).toContain('Expired');
    expect(old?.textContent).toContain('Not used yet');
  });

  it('makes one and shows it once', async () => {
    const panel = aPanel(manager([]));
    showPage('/o/owls/settings/keys');
    await screen.findByText('No API keys yet', {}, PATIENCE);
    fireEvent.click(button('New key'));
    const name = await screen.findByLabelText('Name of the key');
    expect((screen.getByLabelText('Delete servers') as HTMLInputElement).disabled).toBe(true);
    button('Make the key').focus();
    fireEvent.click(button('Make the key'));
    await screen.findByText('Choose at least one thing that the key may do.');
    expect(document.activeElement).toBe(name); // what is wrong is far above the button
    expect(panel.wrote()).toEqual([]);
    fireEvent.change(name, { target: { value: ' Robot ' } });
    fireEvent.click(screen.getByLabelText('Restart'));
    fireEvent.change(screen.getByLabelText('Only from these addresses'), {
      target: { value: '203.0.113.7,\n2001:db8::/48' },
    });
    fireEvent.change(screen.getByLabelText('Good for'), { target: { value: '' } });
    panel.routes['POST tenants/owls/keys'] = new Answer(400, {
      code: 'invalid_input',
      message: 'Look at the fields.',
      data: { addresses: { code: 'address_invalid', message: 'Please use addresses.' } },
    });
    fireEvent.click(button('Make the key'));
    await screen.findByText('Please use addresses.');
    panel.routes['POST tenants/owls/keys'] = { ...aKey, id: 'new', name: 'Robot', secret };
    fireEvent.click(button('Make the key'));
    expect((await screen.findByTestId('secret')).textContent).toBe(secret);
    expect(panel.asked.findLast((one) => one.method === 'POST')?.body).toEqual({
      name: 'Robot',
      permissions: ['server.restart'],
      servers: [],
      addresses: ['203.0.113.7', '2001:db8::/48'],
    });
    fireEvent.click(button('I have kept it'));
    expect(document.body.textContent).not.toContain(secret);
    expect(screen.getAllByTestId('key')).toHaveLength(1);
  });

  it('revokes one after saying what that means; one that is gone counts', async () => {
    const panel = aPanel({
      ...manager([aKey]),
      'DELETE tenants/owls/keys/key000000000001': new Answer(404, { code: 'key_not_found', message: 'Gone.' }),
    });
    showPage('/o/owls/settings/keys');
    fireEvent.click(await screen.findByRole('button', { name: 'Revoke the key Nightly restart' }, PATIENCE));
    const asking = within(await screen.findByRole('dialog'));
    expect(asking.getByText(/stop working at once/)).toBeTruthy();
    fireEvent.click(asking.getByRole('button', { name: 'Revoke' }));
    await screen.findByText('No API keys yet');
    expect(panel.wrote()).toEqual(['DELETE tenants/owls/keys/key000000000001']);
  });

  it('is for those who manage them', async () => {
    const panel = aPanel(anOrganisation({ permissions: ['tenant.read'] }));
    showPage('/o/owls/settings/keys');
    await screen.findByText(/are shown to those who manage them/, {}, PATIENCE);
    expect(screen.queryByRole('link', { name: 'API keys' })).toBeNull();
    expect(panel.asked.some((one) => /keys/.test(one.url))).toBe(false);
  });
});

it('reads addresses however they are typed', () => {
  expect(addressesOf(' 203.0.113.7, 198.51.100.0/24;\n2001:db8::1\t')).toEqual([
    '203.0.113.7',
    '198.51.100.0/24',
    '2001:db8::1',
  ]);
  expect(addressesOf(' \n ')).toEqual([]);
});

it('shows one’s own keys on the account page', async () => {
  aPanel({
    ...anOrganisation(),
    'GET account/sessions': { items: [] },
    'GET account/keys': { items: [{ ...aKey, servers: ['s1'] }], permissions },
  });
  showPage('/o/owls/account/keys');
  const row = await screen.findByTestId('key', {}, PATIENCE);
  expect(row.textContent).toContain('On 1 server only');
  expect(row.textContent).not.toContain('made by');
  await waitFor(() => expect(screen.getByText(/in every organisation that you are in/)).toBeTruthy());
});
