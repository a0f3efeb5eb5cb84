// Has an organisation deleted after the time in which it can still be kept, or keeps it.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Current, Tenant } from '@/api/views';
import { again } from '@/stores/live';

export async function deleteTenant(client: QueryClient, org: string, name: string): Promise<Tenant> {
  return put(
    client,
    org,
    await request<Tenant>(tenantPath(org, 'delete'), { method: 'POST', body: { name }, idempotencyKey: newKey() }),
  );
}

export async function keepTenant(client: QueryClient, org: string): Promise<Tenant> {
  return put(
    client,
    org,
    await request<Tenant>(tenantPath(org, 'delete'), { method: 'DELETE', idempotencyKey: newKey() }),
  );
}

function put(client: QueryClient, org: string, tenant: Tenant): Tenant {
  client.setQueryData<Current>(['org', org, 'current'], (held) => held && { ...held, tenant });
  client.setQueryData<Tenant[]>(['tenants'], (held) => held?.map((one) => (one.id === tenant.id ? tenant : one)));
  again(client, org, 'servers', 'server', 'invites', 'keys');
  return tenant;
}
