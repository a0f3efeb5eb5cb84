import { MantineProvider } from '@mantine/core';
import { Notifications } from '@mantine/notifications';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { cleanup, fireEvent, render, screen, waitFor } from '@testing-library/react';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Server, ServerDetail } from '@/api/views';
import { answering, aServer } from '@/testing';
import { PowerButtons } from './PowerButtons';

let client: QueryClient;
beforeEach(() => {
  client = new QueryClient({ defaultOptions: { queries: { retry: false, staleTime: Number.POSITIVE_INFINITY } } });
});
afterEach(cleanup);

function show(server: Server, permissions: string[]) {
  client.setQueryData(['org', 'owls', 'current'], { permissions, tenant: { status: 'ACTIVE' } });
  client.setQueryData(['org', 'owls', 'server', server.id], server);
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={client}>
        <Notifications />
        <PowerButtons server={server} org="owls" />
      </QueryClientProvider>
    </MantineProvider>,
  );
}
const names = () => screen.queryAllByRole('button').map((b) => b.textContent || b.getAttribute('aria-label'));
const held = () => client.getQueryData<ServerDetail>(['org', 'owls', 'server', 'server000000001'])?.status;

describe('PowerButtons', () => {
  it.each([
    ['all that is possible', ['stop', 'restart', 'kill'], ['*'], ['Stop', 'Restart', 'More actions']],
    ['what the role has of it', ['stop', 'restart', 'kill'], ['server.restart'], ['Restart']],
    ['what is possible now, not what is allowed', ['start'], ['server.stop', 'server.start'], ['Start']],
    ['nothing where nothing is possible', [], ['*'], []],
    ['nothing of a stranger’s', ['start'], [], []],
  ])('offers %s', (_, actions, permissions, want) => {
    show(aServer({ actions: actions as Server['actions'] }), permissions);
    expect(names()).toHaveLength(want.length);
    for (const name of want) if (name !== 'More actions') expect(names()).toContain(name);
  });

  it('stops at a click, shows what the panel answered, and says so', async () => {
    const asked = answering({ status: 202, body: { server: aServer({ rev: 2, status: 'STOPPING' }), job: null } });
    show(aServer(), ['*']);
    fireEvent.click(screen.getByRole('button', { name: 'Stop' }));
    await waitFor(() => expect(held()).toBe('STOPPING'));
    expect(asked).toHaveLength(1);
    expect(asked[0]?.body).toEqual({ action: 'stop' });
    await waitFor(() => expect(document.body.textContent).toContain('Friday night'));
  });

  it('shows the panel’s sentence when it is not possible, and changes nothing', async () => {
    answering({
      status: 409,
      body: { code: 'action_not_possible', message: 'A server that is stopping cannot be asked to stop.' },
    });
    show(aServer(), ['*']);
    fireEvent.click(screen.getByRole('button', { name: 'Stop' }));
    await screen.findByText(/cannot be asked to stop/);
    expect(held()).toBe('RUNNING');
    await waitFor(() =>
      expect((screen.getByRole('button', { name: 'Restart' }) as HTMLButtonElement).disabled).toBe(false),
    );
  });

  it('sends one request for two quick clicks', async () => {
    const asked = answering({ status: 202, body: { server: aServer({ rev: 2, status: 'STOPPING' }), job: null } });
    show(aServer(), ['*']);
    const stop = screen.getByRole('button', { name: 'Stop' });
    fireEvent.click(stop);
    fireEvent.click(stop);
    await waitFor(() => expect(held()).toBe('STOPPING'));
    expect(asked).toHaveLength(1);
  });
});
