// Gives a member a role for one server, another one, or takes it away.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { again } from '@/stores/live';

const path = (server: string, user: string) =>
  `servers/${encodeURIComponent(server)}/access/${encodeURIComponent(user)}`;

export async function giveAccess(
  client: QueryClient,
  org: string,
  server: string,
  user: string,
  role: string,
): Promise<void> {
  await request(path(server, user), { method: 'PUT', org, body: { role }, idempotencyKey: newKey() });
  again(client, org, 'access', 'members', 'roles');
}

export async function takeAccess(client: QueryClient, org: string, server: string, user: string): Promise<void> {
  await request(path(server, user), { method: 'DELETE', org, idempotencyKey: newKey() });
  again(client, org, 'access', 'members', 'roles');
}
