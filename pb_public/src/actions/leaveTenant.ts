// Leaves an organisation. Nothing of it stays in the cache.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Tenant } from '@/api/views';

export async function leaveTenant(client: QueryClient, org: string, user: string): Promise<void> {
  await request(tenantPath(org, 'members', user), { method: 'DELETE', idempotencyKey: newKey() });
  client.setQueryData<Tenant[]>(['tenants'], (held) => held?.filter((one) => one.slug !== org && one.id !== org));
}

/** To be called once no page of it is shown any more: those would ask for everything again. */
export const forgetTenant = (client: QueryClient, org: string): void =>
  client.removeQueries({ queryKey: ['org', org] });
