import { cleanup, fireEvent, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Notice } from '@/api/views';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';
import { applyNotice } from '@/stores/notices';

beforeEach(signedIn);
afterEach(cleanup);

const PATIENCE = { timeout: 20_000 };
const notice = (id: string, differs: Partial<Notice> = {}): Notice => ({
  id,
  kind: 'server.crashed',
  severity: 'warning',
  subject: `Notice ${id}`,
  body: 'It is started again.',
  tenant: 't1',
  org: 'Night Owls',
  server: 'server000000001',
  link: '/o/t1/servers/server000000001',
  at: '2026-11-27T10:00:00Z',
  read_at: null,
  ...differs,
});
const page = (items: Notice[]) => ({
  items,
  page: 1,
  per_page: 30,
  total: items.length,
  unread: items.filter((one) => one.read_at === null).length,
});
const READ = '2026-11-27T11:00:00Z';

async function opened(routes: Record<string, unknown>) {
  const panel = aPanel({ ...anOrganisation(), ...routes });
  const shown = showPage('/o/owls/account/keys');
  const bell = await screen.findByRole('button', { name: /^Notices/ }, PATIENCE);
  if (routes['GET notifications'] && !(routes['GET notifications'] instanceof Answer)) {
    await waitFor(() => expect(panel.asked.some((one) => one.url.startsWith('notifications?'))).toBe(true), PATIENCE);
  }
  bell.focus();
  fireEvent.click(bell);
  return { ...panel, ...shown, bell, dialog: within(await screen.findByRole('dialog', { name: 'Notices' }, PATIENCE)) };
}

it('shows the newest notices and which are unread, and tells a screen reader so', async () => {
  const many = Array.from({ length: 12 }, (_, i) => notice(`n${i}`, { read_at: i < 2 ? null : READ }));
  const { bell, dialog } = await opened({ 'GET notifications': page(many) });
  const rows = await dialog.findAllByTestId('bell-notice');
  expect(rows).toHaveLength(8);
  expect(rows.filter((row) => row.hasAttribute('data-unread'))).toHaveLength(2);
  expect(within(rows[0] as HTMLElement).getByRole('link').textContent).toContain('New: Notice n0');
  expect(within(rows[2] as HTMLElement).getByRole('link').textContent).not.toContain('New');
  await waitFor(() => expect(bell.getAttribute('aria-label')).toBe('Notices, 2 unread'));
  expect(bell.getAttribute('aria-haspopup')).toBe('dialog');
  expect(bell.getAttribute('aria-expanded')).toBe('true');
  expect(dialog.getByRole('link', { name: 'See all' }).getAttribute('href')).toBe('/o/owls/notices');
});

it('goes to what a notice is about, marks that one as read, and closes', async () => {
  const panel = await opened({
    'GET notifications': page([notice('n1'), notice('n2')]),
    'POST notifications/read': { unread: 1 },
  });
  const first = await panel.dialog.findByRole('link', { name: /Notice n1/ });
  panel.routes['GET notifications'] = page([notice('n1', { read_at: READ }), notice('n2')]);
  fireEvent.click(first);
  await waitFor(() => expect(panel.at()).toContain('/o/t1/servers/server000000001'), PATIENCE);
  await waitFor(() => expect(screen.queryByRole('dialog', { name: 'Notices' })).toBeNull());
  expect(panel.wrote()).toEqual(['POST notifications/read']);
  expect(panel.asked.find((one) => one.method === 'POST')?.body).toEqual({ ids: ['n1'] });
  await waitFor(() => expect(panel.bell.getAttribute('aria-label')).toBe('Notices, one unread'));
});

it('leads nowhere outside of the app', async () => {
  const { dialog } = await opened({
    'GET notifications': page([
      notice('n1', { server: '', link: '//evil.example/x' }),
      notice('n2', { server: '', link: '/account' }),
    ]),
  });
  expect((await dialog.findByRole('link', { name: /Notice n1/ })).getAttribute('href')).toBe('/');
  expect(dialog.getByRole('link', { name: /Notice n2/ }).getAttribute('href')).toBe('/account');
});

it('marks all as read', async () => {
  const panel = await opened({
    'GET notifications': page([notice('n1'), notice('n2')]),
    'POST notifications/read-all': { unread: 0 },
  });
  const all = await panel.dialog.findByRole('button', { name: 'Mark all as read' });
  panel.routes['GET notifications'] = page([notice('n1', { read_at: READ }), notice('n2', { read_at: READ })]);
  fireEvent.click(all);
  await waitFor(() => expect(panel.dialog.queryByRole('button', { name: 'Mark all as read' })).toBeNull());
  expect(panel.bell.getAttribute('aria-label')).toBe('Notices');
});

it('shows what comes while it is open', async () => {
  const { client, dialog, bell } = await opened({ 'GET notifications': page([]) });
  await dialog.findByText('Nothing has happened yet');
  applyNotice(client, { type: 'notice', data: { notice: notice('n9'), unread: 1 } });
  await dialog.findByRole('link', { name: /Notice n9/ });
  expect(bell.getAttribute('aria-label')).toBe('Notices, one unread');
});

it('says why nothing could be loaded, and tries again', async () => {
  const panel = await opened({ 'GET notifications': new Answer(400, { code: 'invalid_input', message: 'Not so.' }) });
  const again = await panel.dialog.findByRole('button', { name: 'Try again' }, PATIENCE);
  panel.routes['GET notifications'] = page([notice('n1')]);
  fireEvent.click(again);
  await panel.dialog.findByRole('link', { name: /Notice n1/ });
});

it('closes with Escape and gives the focus back to the bell', async () => {
  const { bell, dialog } = await opened({ 'GET notifications': page([notice('n1')]) });
  const inside = await dialog.findByRole('link', { name: /Notice n1/ });
  inside.focus();
  fireEvent.keyDown(inside, { key: 'Escape' });
  await waitFor(() => expect(screen.queryByRole('dialog', { name: 'Notices' })).toBeNull());
  await waitFor(() => expect(document.activeElement).toBe(bell));
  expect(bell.getAttribute('aria-expanded')).toBe('false');
});

it('is a link to the page on a phone', async () => {
  aPanel({ ...anOrganisation(), 'GET notifications': page([notice('n1')]) });
  showPage('/o/owls/account/keys');
  const link = await screen.findByRole('link', { name: 'Notices, one unread' }, PATIENCE);
  expect(link.getAttribute('href')).toBe('/o/owls/notices');
});
