// Start, stop, restart, kill, reinstall. The screen follows the panel's answer, not a guess: whether
// it is possible now is decided there (409 says why not).
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import type { Accepted, PowerAction, ServerDetail } from '@/api/views';
import { putServer } from '@/stores/live';

export async function powerServer(client: QueryClient, org: string, id: string, action: PowerAction): Promise<void> {
  const { server, job } = await request<Accepted>(`servers/${id}/actions`, {
    method: 'POST',
    org,
    body: { action },
    idempotencyKey: newKey(),
  });
  putServer(client, org, server);
  client.setQueryData<ServerDetail>(['org', org, 'server', id], (held) => held && { ...held, job });
}
