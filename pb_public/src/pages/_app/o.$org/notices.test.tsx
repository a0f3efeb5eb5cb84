import { cleanup, fireEvent, screen, waitFor } from '@testing-library/react';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Notice } from '@/api/views';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';

beforeEach(signedIn);
afterEach(cleanup);

const PATIENCE = { timeout: 20_000 };
const notice = (id: string, differs: Partial<Notice> = {}): Notice => ({
  id,
  kind: 'server.crashed',
  severity: 'warning',
  subject: 'Friday night crashed',
  body: 'It is started again.',
  tenant: 't1',
  org: 'Night Owls',
  server: 'server000000001',
  link: '',
  at: '2026-11-27T10:00:00Z',
  read_at: null,
  ...differs,
});
const page = (items: Notice[], differs = {}) => ({
  items,
  page: 1,
  per_page: 50,
  total: items.length,
  unread: items.filter((one) => one.read_at === null).length,
  ...differs,
});

it('says what is new, and marks all of it as read', async () => {
  const panel = aPanel({ ...anOrganisation(), 'GET notifications': page([notice('n1')]) });
  showPage('/o/owls/notices');
  const row = await screen.findByTestId('notice', {}, PATIENCE);
  expect(row.textContent).toContain('NewFriday night crashedIt is started again.');
  expect(screen.queryByRole('button', { name: 'Older' })).toBeNull(); // one page has them all
  panel.routes['POST notifications/read-all'] = { unread: 0 };
  panel.routes['GET notifications'] = page([notice('n1', { read_at: '2026-11-27T11:00:00Z' })]);
  fireEvent.click(screen.getByRole('button', { name: 'Mark all as read' }));
  await waitFor(() => expect(screen.queryByRole('button', { name: 'Mark all as read' })).toBeNull());
  expect(screen.getByTestId('notice').textContent).not.toContain('New');
});

it('has pages when there are many', async () => {
  const panel = aPanel({ ...anOrganisation(), 'GET notifications': page([notice('n1')], { total: 60 }) });
  showPage('/o/owls/notices');
  await screen.findByTestId('notice', {}, PATIENCE);
  fireEvent.click(screen.getByRole('button', { name: 'Older' }));
  await waitFor(() => expect(panel.asked.at(-1)?.url).toBe('notifications?page=2'));
});

it('says that nothing happened, and why it could not be loaded', async () => {
  const panel = aPanel({
    ...anOrganisation(),
    'GET notifications': new Answer(400, { code: 'invalid_input', message: 'Not so.' }),
  });
  showPage('/o/owls/notices');
  const again = await screen.findByRole('button', { name: 'Try again' }, PATIENCE);
  panel.routes['GET notifications'] = page([]);
  fireEvent.click(again);
  await screen.findByText('Nothing has happened yet');
});
