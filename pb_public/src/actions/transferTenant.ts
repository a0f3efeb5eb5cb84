// Hands an organisation over: another member becomes its owner, and whoever was it an admin.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Tenant } from '@/api/views';
import { again } from '@/stores/live';

export async function transferTenant(client: QueryClient, org: string, user: string): Promise<void> {
  const tenant = await request<Tenant>(tenantPath(org, 'transfer'), {
    method: 'POST',
    body: { user },
    idempotencyKey: newKey(),
  });
  client.setQueryData<Tenant[]>(['tenants'], (held) => held?.map((one) => (one.id === tenant.id ? tenant : one)));
  again(client, org, 'current', 'members', 'roles', 'access');
}
