import { cleanup, fireEvent, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';

beforeEach(() => {
  signedIn();
  Element.prototype.scrollIntoView = vi.fn(); // jsdom has no layout
});
afterEach(cleanup);

const PATIENCE = { timeout: 10_000 };
const names = () => screen.getAllByRole('option').map((one) => one.querySelector('span')?.textContent);

async function palette(typed: string) {
  await screen.findAllByText('Ana', {}, PATIENCE);
  fireEvent.keyDown(document.body, { key: 'k', ctrlKey: true });
  const search = await screen.findByRole('combobox', { name: 'Search pages, servers and actions' }, PATIENCE);
  fireEvent.change(search, { target: { value: typed } });
  return search;
}

it('reaches each part of the settings, and the access to a server', async () => {
  aPanel(anOrganisation());
  const { at } = showPage('/o/owls/account');
  const search = await palette('members');
  await waitFor(() => expect(names()[0]).toBe('Members & invites'));
  fireEvent.change(search, { target: { value: 'access to friday' } });
  await waitFor(() => expect(names()).toEqual(['Access to Friday night']));
  fireEvent.change(search, { target: { value: 'roles' } });
  await waitFor(() => expect(names()).toEqual(['Roles']));
  fireEvent.keyDown(search, { key: 'Enter' });
  await waitFor(() => expect(at()).toBe('/o/owls/settings/roles'));
});

it('reaches the other parts of the settings and of the account', async () => {
  aPanel(anOrganisation({ permissions: ['*'] }));
  const { at } = showPage('/o/owls/account');
  const search = await palette('danger');
  await waitFor(() => expect(names()).toEqual(['Danger zone']));
  for (const [typed, name] of [
    ['audit', 'Audit log'],
    ['security', 'Security'],
    ['notifications', 'Notifications'],
    ['api keys account', 'API keys'],
  ]) {
    fireEvent.change(search, { target: { value: typed } });
    await waitFor(() => expect(names()).toEqual([name]));
  }
  fireEvent.keyDown(search, { key: 'Enter' });
  await waitFor(() => expect(at()).toBe('/o/owls/account/keys'));
});

it('does not offer what one may not see', async () => {
  aPanel(anOrganisation({ permissions: ['tenant.read', 'member.update', 'server.read'], quota: null }));
  showPage('/o/owls/account');
  await palette('e');
  await waitFor(() => expect(names().length).toBeGreaterThan(0));
  expect(names().filter((name) => /settings|Members|Roles|Access|Audit|Danger/.test(name ?? ''))).toEqual([]);
});

it('leads to the settings from both bars, when one may see them', async () => {
  aPanel(anOrganisation());
  showPage('/o/owls/account');
  await screen.findAllByRole('link', { name: 'Settings' }, PATIENCE);
  for (const bar of screen.getAllByRole('navigation', { name: 'Main' }))
    expect(within(bar).getByRole('link', { name: 'Settings' }).getAttribute('href')).toBe('/o/owls/settings');
});
