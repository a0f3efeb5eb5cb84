// Creates a server. Sending the same form twice (a lost answer, an impatient finger) makes one server:
// the Idempotency-Key belongs to the form's content and changes with it.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import type { Accepted, Limits, Server } from '@/api/views';
import { putServer } from '@/stores/live';

export interface NewServer {
  name: string;
  blueprint: string;
  variant?: string;
  node?: string;
  limits: Limits;
  variables: Record<string, string>;
  start: boolean;
}

/** Gives the key of a form's content: the same as before while the content is. */
export function keyKeeper(): (content: NewServer) => string {
  let last = '';
  let key = '';
  return (content) => {
    const now = JSON.stringify(content);
    if (now !== last) {
      last = now;
      key = newKey();
    }
    return key;
  };
}

export async function createServer(client: QueryClient, org: string, content: NewServer, key: string): Promise<Server> {
  const { server, job } = await request<Accepted>('servers', {
    method: 'POST',
    org,
    body: content,
    idempotencyKey: key,
  });
  putServer(client, org, server);
  // Old from the start: what the panel told of it before this answer came found nothing to be applied to.
  client.setQueryData(['org', org, 'server', server.id], { ...server, job }, { updatedAt: 0 });
  void client.invalidateQueries({ queryKey: ['org', org, 'current'] });
  return server;
}
