// Deletes a server and everything in it. The row stays on the screen as "being deleted" until the node
// has confirmed it; realtime takes it away.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import type { Accepted } from '@/api/views';
import { putServer } from '@/stores/live';

/** Whether what was typed confirms the deletion of a server of this name. */
export const confirms = (typed: string, name: string): boolean => typed.trim() === name.trim() && name.trim() !== '';

export async function deleteServer(client: QueryClient, org: string, id: string): Promise<void> {
  const { server } = await request<Accepted>(`servers/${id}`, { method: 'DELETE', org, idempotencyKey: newKey() });
  if (server) putServer(client, org, server);
}
