// Makes an organisation and remembers it as the one to show.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import type { Tenant } from '@/api/views';
import { keep } from '@/stores/kept';

export async function createTenant(client: QueryClient, name: string, slug: string): Promise<Tenant> {
  const body = { name: name.trim(), ...(slug ? { slug } : {}) };
  const answer = await request<Tenant | { tenant: Tenant }>('tenants', {
    method: 'POST',
    body,
    idempotencyKey: newKey(),
  });
  const tenant = 'tenant' in answer ? answer.tenant : answer;
  keep('org', tenant.slug);
  client.setQueryData<Tenant[]>(['tenants'], (held) => [...(held ?? []), tenant]);
  void client.invalidateQueries({ queryKey: ['tenants'] });
  return tenant;
}
