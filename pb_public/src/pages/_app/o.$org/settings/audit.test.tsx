import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor } from '@testing-library/react';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { AuditEntry } from '@/api/views';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';

beforeEach(signedIn);
afterEach(() => {
  cleanup();
  notifications.clean();
});

const PATIENCE = { timeout: 20_000 };
const entry = (seq: number, differs: Partial<AuditEntry> = {}): AuditEntry => ({
  seq,
  at: '2026-11-27T10:00:00Z',
  actor: 'u1',
  actor_type: 'user',
  actor_name: 'Ana',
  action: 'server.start',
  resource_type: 'servers',
  resource: 'server000000001',
  metadata: { name: '<b>one</b>' },
  address: '203.0.113.7',
  user_agent: 'curl',
  request_id: 'req1',
  ...differs,
});
const readers = (items: AuditEntry[], total = items.length) => ({
  ...anOrganisation({ permissions: ['tenant.read', 'audit.read'] }),
  'GET audit': { items, page: 1, per_page: 50, total },
});

it('shows who did what, and the whole of an entry', async () => {
  aPanel(
    readers([
      entry(2, { actor_type: 'apikey', actor_name: 'robot (API key of Ana)' }),
      entry(1, { action: 'server.fly' }),
    ]),
  );
  showPage('/o/owls/settings/audit');
  const [newest, newer] = await screen.findAllByTestId('entry', {}, PATIENCE);
  expect(newest?.textContent).toContain('robot (API key of Ana)');
  for (const text of ['server.start', 'servers server000000001', '203.0.113.7', 'curl', 'req1', '<b>one</b>'])
    expect(newest?.textContent).toContain(text);
  expect(newest?.querySelector('strong')?.textContent).toBe('Started a server');
  expect(newer?.querySelector('strong')).toBeNull(); // what a newer panel may write
  expect(newer?.textContent).toContain('server.fly');
  expect(screen.getByText('2 entries')).toBeTruthy();
});

it('narrows, pages, and says that nothing fits', async () => {
  const panel = aPanel(readers([entry(120)], 120));
  showPage('/o/owls/settings/audit');
  await screen.findAllByTestId('entry', {}, PATIENCE);
  const asked = () => panel.asked.filter((one) => /audit/.test(one.url)).map((one) => one.url);
  fireEvent.click(screen.getByRole('button', { name: 'Older' }));
  await waitFor(() => expect(asked().at(-1)).toContain('page=2'));
  panel.routes['GET audit'] = { items: [], page: 1, per_page: 50, total: 0 };
  fireEvent.change(screen.getByLabelText('What'), { target: { value: 'member.' } });
  await screen.findByText('Nothing like that was done');
  expect(asked().at(-1)).toMatch(/action=member\.(&.*)?page=1|page=1(&.*)?action=member\./);
  const resource = screen.getByLabelText('Id of what it is about');
  fireEvent.change(resource, { target: { value: ' server000000001 ' } });
  fireEvent.blur(resource);
  await waitFor(() => expect(asked().at(-1)).toContain('resource=server000000001'));
  fireEvent.change(screen.getByLabelText('From'), { target: { value: '2026-11-01T00:00' } });
  await waitFor(() => expect(asked().at(-1)).toContain('from='));
  panel.routes['GET audit'] = { items: [entry(1)], page: 1, per_page: 50, total: 1 };
  fireEvent.click(screen.getByRole('button', { name: 'Show everything' }));
  await screen.findAllByTestId('entry');
  const typed = ['Id of what it is about', 'From', 'What'].map((name) => screen.getByLabelText<HTMLInputElement>(name));
  expect(typed.map((field) => field.value)).toEqual(['', '', '']);
});

it('says why it could not be loaded, and that nothing has happened yet', async () => {
  const panel = aPanel({ ...readers([]), 'GET audit': new Answer(400, { code: 'invalid_input', message: 'Not so.' }) });
  showPage('/o/owls/settings/audit');
  const again = await screen.findByRole('button', { name: 'Try again' }, PATIENCE);
  panel.routes['GET audit'] = { items: [], page: 1, per_page: 50, total: 0 };
  fireEvent.click(again);
  await screen.findByText('Nothing has happened yet');
});

it('is for owners and admins', async () => {
  const panel = aPanel(anOrganisation({ permissions: ['tenant.read'] }));
  showPage('/o/owls/settings/audit');
  await screen.findByText('The audit log is shown to owners and admins.', {}, PATIENCE);
  expect(screen.queryByRole('link', { name: 'Audit log' })).toBeNull();
  expect(panel.asked.some((one) => /audit/.test(one.url))).toBe(false);
});
