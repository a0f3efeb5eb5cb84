import { MantineProvider } from '@mantine/core';
import { Notifications } from '@mantine/notifications';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { cleanup, fireEvent, render, screen, waitFor, within } from '@testing-library/react';
import { afterEach, describe, expect, it } from 'vitest';
import type { Session } from '@/api/views';
import { answering } from '@/testing';
import { SessionsCard } from './SessionsCard';

afterEach(cleanup);

const firefox = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0';
const here: Session = {
  id: 'session00000001',
  method: 'password',
  address: '203.0.113.7',
  user_agent: firefox,
  created: '2026-11-27T10:00:00Z',
  last_used: '2026-11-27T10:00:00Z',
  expires_at: '2026-12-27T10:00:00Z',
  current: true,
};
const there: Session = {
  ...here,
  id: 'session00000002',
  address: '198.51.100.2',
  user_agent: 'curl/8.5.0',
  current: false,
};

function show() {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={client}>
        <Notifications />
        <SessionsCard />
      </QueryClientProvider>
    </MantineProvider>,
  );
}
const rows = () => screen.queryAllByTestId('session');

describe('SessionsCard', () => {
  it('names each device, and which is this one', async () => {
    answering({ status: 200, body: { items: [here, there] } });
    show();
    await waitFor(() => expect(rows()).toHaveLength(2));
    expect(rows()[0]?.textContent).toContain('Firefox on Linux');
    expect(rows()[0]?.textContent).toContain('This device');
    expect(within(rows()[0] as HTMLElement).queryByRole('button')).toBeNull();
    expect(rows()[1]?.textContent).toContain('curl');
    expect(rows()[1]?.textContent).toContain('198.51.100.2');
  });

  it('ends one', async () => {
    const asked = answering({ status: 200, body: { items: [here, there] } }, { status: 204 });
    show();
    fireEvent.click(await screen.findByRole('button', { name: /end .*curl/i }));
    await waitFor(() => expect(rows()).toHaveLength(1));
    expect(asked[1]?.url).toBe('/api/v1/account/sessions/session00000002');
    expect(screen.queryByRole('button', { name: /all other/i })).toBeNull();
  });

  it('takes one that has ended meanwhile for ended, and says what else goes wrong', async () => {
    answering(
      { status: 200, body: { items: [here, there] } },
      { status: 404, body: { code: 'session_not_found', message: 'It has ended.' } },
    );
    show();
    fireEvent.click(await screen.findByRole('button', { name: /end .*curl/i }));
    await waitFor(() => expect(rows()).toHaveLength(1));
    cleanup();
    answering({ status: 200, body: { items: [here, there] } }, { status: 403, body: { message: 'Not now.' } });
    show();
    fireEvent.click(await screen.findByRole('button', { name: /end .*curl/i }));
    await waitFor(() => expect(document.body.textContent).toContain('Not now.'));
    expect(rows()).toHaveLength(2);
  });

  it('ends all others', async () => {
    const asked = answering({ status: 200, body: { items: [here, there] } }, { status: 200, body: { ended: 1 } });
    show();
    fireEvent.click(await screen.findByRole('button', { name: /all other/i }));
    await waitFor(() => expect(rows()).toHaveLength(1));
    expect(asked[1]?.url).toBe('/api/v1/account/sessions/others');
  });
});
