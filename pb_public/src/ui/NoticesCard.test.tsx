import { MantineProvider } from '@mantine/core';
import { Notifications, notifications } from '@mantine/notifications';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { cleanup, fireEvent, render, screen, waitFor, within } from '@testing-library/react';
import type { ReactNode } from 'react';
import { afterEach, describe, expect, it } from 'vitest';
import type { Notice, NoticePage, NoticePrefs, ServerDetail } from '@/api/views';
import { applyNotice } from '@/stores/notices';
import { answering, aServer } from '@/testing';
import { MuteCard } from './MuteCard';
import { NoticesCard } from './NoticesCard';
import { WebhooksCard } from './WebhooksCard';

afterEach(() => {
  cleanup();
  notifications.clean(); // four at a time are shown
});

const prefs: NoticePrefs = {
  channels: ['app', 'email', 'discord', 'push'],
  email: 'ana@example.org',
  email_confirmed: true,
  items: [
    {
      kind: 'server.crashed',
      group: 'servers',
      title: 'A server crashed',
      severity: 'warning',
      channels: { app: true, email: false, discord: true, push: false },
      locked: [],
    },
    {
      kind: 'account.new_sign_in',
      group: 'security',
      title: 'A sign-in from a new place',
      severity: 'warning',
      channels: { app: true, email: true, discord: false, push: true },
      locked: ['app', 'email'],
    },
  ],
};

function show(what: ReactNode) {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={client}>
        <Notifications />
        {what}
      </QueryClientProvider>
    </MantineProvider>,
  );
}
const box = (name: string) => screen.getByRole('checkbox', { name }) as HTMLInputElement;

describe('NoticesCard', () => {
  it('switches a kind on for a channel, and never what is about safety', async () => {
    const asked = answering({ status: 200, body: prefs }, { status: 200, body: prefs.items[0] });
    show(<NoticesCard />);
    fireEvent.click(await screen.findByRole('checkbox', { name: 'A server crashed: E-mail' }));
    await waitFor(() => expect(asked).toHaveLength(2));
    expect(asked[1]?.method).toBe('PUT');
    expect(asked[1]?.body).toEqual({ kind: 'server.crashed', channel: 'email', enabled: true });
    expect(box('A server crashed: E-mail').checked).toBe(true);
    expect(box('A sign-in from a new place: E-mail').disabled).toBe(true);
    expect(box('A sign-in from a new place: Discord').disabled).toBe(false);
  });

  it('goes back when the panel refuses', async () => {
    answering({ status: 200, body: prefs }, { status: 409, body: { code: 'always_on', message: 'It stays on.' } });
    show(<NoticesCard />);
    fireEvent.click(await screen.findByRole('checkbox', { name: 'A server crashed: Here' }));
    await screen.findByText('It stays on.');
    expect(box('A server crashed: Here').checked).toBe(true);
  });
});

describe('WebhooksCard', () => {
  const hook = {
    id: 'hook00000000001',
    kind: 'discord',
    name: 'ops',
    problem: '',
    created: '2026-11-27T10:00:00Z',
    used_at: null,
  };

  it('adds one and says what is wrong with a URL', async () => {
    const asked = answering(
      { status: 200, body: { items: [] } },
      {
        status: 400,
        body: { code: 'invalid', message: 'No.', data: { url: { code: 'url_invalid', message: 'Not Discord.' } } },
      },
      { status: 201, body: hook },
      { status: 200, body: { items: [hook] } },
    );
    show(<WebhooksCard org="owls" />);
    fireEvent.change(await screen.findByLabelText('Name'), { target: { value: 'ops' } });
    fireEvent.change(screen.getByLabelText('Webhook URL'), { target: { value: 'https://discord.com/x' } });
    fireEvent.click(screen.getByRole('button', { name: 'Add webhook' }));
    await screen.findByText('Not Discord.');
    fireEvent.click(screen.getByRole('button', { name: 'Add webhook' }));
    await waitFor(() => expect(screen.queryAllByTestId('webhook')).toHaveLength(1), { timeout: 4000 });
    expect(asked[1]?.url).toContain('tenants/owls/channels');
    expect((screen.getByLabelText('Webhook URL') as HTMLInputElement).value).toBe('');
  });
  it('removes one after saying that its URL is gone with it', async () => {
    const asked = answering(
      { status: 200, body: { items: [hook] } },
      { status: 204 },
      { status: 200, body: { items: [] } },
    );
    show(<WebhooksCard org="owls" />);
    fireEvent.click(await screen.findByRole('button', { name: 'Remove ops' }));
    const asking = within(await screen.findByRole('dialog', { name: 'Remove ops?' }));
    expect(asking.getByText(/Its URL is not kept/)).toBeTruthy();
    expect(asked).toHaveLength(1);
    fireEvent.click(asking.getByRole('button', { name: 'Remove' }));
    await waitFor(() => expect(screen.queryAllByTestId('webhook')).toHaveLength(0), { timeout: 4000 });
    expect(asked[1]).toMatchObject({ method: 'DELETE' });
  });
});

describe('kinds of a webhook', () => {
  const kinds = [
    { kind: 'server.crashed', group: 'servers', title: 'A server crashed', severity: 'warning' },
    { kind: 'member.joined', group: 'organisation', title: 'An invitation is accepted', severity: 'info' },
  ];
  const hook = {
    id: 'hook00000000001',
    kind: 'discord',
    name: 'ops',
    problem: '',
    created: '2026-11-27T10:00:00Z',
    used_at: null,
    kinds: { 'server.crashed': true, 'member.joined': false },
  };

  it('are chosen for each one of an organisation, and go back when the panel refuses', async () => {
    const asked = answering(
      { status: 200, body: { items: [hook], kinds } },
      { status: 200, body: hook },
      { status: 403, body: { code: 'forbidden', message: 'You may not hear of this yourself.' } },
    );
    show(<WebhooksCard org="owls" />);
    const fold = await screen.findByRole('button', { name: 'Choose what ops is sent: 1 of 2 kinds of news' });
    expect(fold.getAttribute('aria-expanded')).toBe('false');
    expect(screen.queryByRole('checkbox')).toBeNull();
    fireEvent.click(fold);
    expect(fold.getAttribute('aria-expanded')).toBe('true');
    expect(box('An invitation is accepted').checked).toBe(false);
    fireEvent.click(box('A server crashed'));
    await waitFor(() => expect(asked).toHaveLength(2));
    expect(asked[1]).toMatchObject({ method: 'PATCH', body: { kinds: { 'server.crashed': false } } });
    expect(asked[1]?.url).toContain('tenants/owls/channels/hook00000000001');
    expect(box('A server crashed').checked).toBe(false);
    fireEvent.click(box('An invitation is accepted'));
    await screen.findByText('You may not hear of this yourself.');
    expect(box('An invitation is accepted').checked).toBe(false);
    expect(box('A server crashed').checked).toBe(false);
  });

  it('of one’s own are the switches above', async () => {
    answering({ status: 200, body: { items: [{ ...hook, kinds: undefined }] } });
    show(<WebhooksCard org="" />);
    await screen.findByTestId('webhook');
    expect(screen.queryByRole('button', { name: /kinds of news/ })).toBeNull();
  });
});

describe('MuteCard', () => {
  it('mutes a server, and goes back when the panel refuses', async () => {
    const asked = answering(
      { status: 200, body: { items: [] } },
      { status: 204 },
      { status: 404, body: { code: 'server_not_found', message: 'There is no such server.' } },
    );
    show(<MuteCard server={aServer() as ServerDetail} />);
    const mute = (await screen.findByRole('switch', { name: 'Mute this server' })) as HTMLInputElement;
    fireEvent.click(mute);
    await screen.findByText('You hear nothing of Friday night any more');
    expect(asked[1]).toMatchObject({ method: 'PUT' });
    expect(asked[1]?.url).toContain('notifications/mutes/server000000001');
    expect(mute.checked).toBe(true);
    await waitFor(() => expect(mute.disabled).toBe(false));
    fireEvent.click(mute);
    await screen.findByText('There is no such server.');
    expect(asked[2]).toMatchObject({ method: 'DELETE' });
    expect(mute.checked).toBe(true);
  });
});

describe('applyNotice', () => {
  const notice: Notice = {
    id: 'n2',
    kind: 'server.crashed',
    severity: 'warning',
    subject: 'lobby crashed',
    body: '',
    tenant: 't1',
    org: 'Owls',
    server: 's1',
    link: '',
    at: '2026-11-27T10:00:00Z',
    read_at: null,
  };

  it('puts a new one on top, once', () => {
    const client = new QueryClient();
    const page: NoticePage = { items: [], page: 1, per_page: 30, total: 0, unread: 0 };
    client.setQueryData(['notices', 1], page);
    applyNotice(client, { type: 'notice', data: { notice, unread: 1 } });
    applyNotice(client, { type: 'notice', data: { notice, unread: 1 } });
    expect(client.getQueryData<NoticePage>(['notices', 1])).toMatchObject({ items: [notice], total: 1, unread: 1 });
    applyNotice(client, { type: 'notices', data: { unread: 0 } });
    expect(client.getQueryData<NoticePage>(['notices', 1])?.unread).toBe(0);
  });
});
