// Asks for an archive of all that an organisation has. The panel says when it is ready.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Export } from '@/api/views';
import { again } from '@/stores/live';

export async function exportTenant(client: QueryClient, org: string): Promise<void> {
  const made = await request<Export>(tenantPath(org, 'export'), { method: 'POST', idempotencyKey: newKey() });
  client.setQueryData<Export[]>(['org', org, 'exports'], (held) => held && [made, ...held]);
  again(client, org, 'exports');
}
