// Changes a server's name, limits or variables. The name changes on the screen at once and goes back
// when the panel refuses; limits and variables wait for its answer.
import type { QueryClient } from '@tanstack/react-query';
import { request } from '@/api/client';
import type { Accepted, Limits, Server, ServerDetail } from '@/api/views';
import { putServer } from '@/stores/live';

export interface Changes {
  name?: string;
  limits?: Limits;
  variables?: Record<string, string>;
}

export async function updateServer(client: QueryClient, org: string, id: string, changes: Changes): Promise<Server> {
  const key = ['org', org, 'server', id];
  const before = client.getQueryData<ServerDetail>(key)?.name;
  const rename = (name: string | undefined) =>
    name !== undefined && client.setQueryData<ServerDetail>(key, (held) => held && { ...held, name });
  rename(changes.name);
  try {
    const { server } = await request<Accepted>(`servers/${id}`, { method: 'PATCH', org, body: changes });
    putServer(client, org, server);
    return server;
  } catch (cause) {
    if (changes.name !== undefined) rename(before);
    throw cause;
  }
}
