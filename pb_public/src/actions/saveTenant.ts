// Renames an organisation, or gives it another address. Waits for the panel: an address may be taken.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Current, Tenant } from '@/api/views';
import { keep } from '@/stores/kept';

/** With a new slug every page of the organisation has a new address: the frame goes there by itself. */
export async function saveTenant(
  client: QueryClient,
  org: string,
  changes: { name?: string; slug?: string; require_2fa?: boolean },
): Promise<Tenant> {
  const tenant = await request<Tenant>(tenantPath(org), { method: 'PATCH', body: changes, idempotencyKey: newKey() });
  const current = client.getQueryData<Current>(['org', org, 'current']);
  if (current) client.setQueryData<Current>(['org', tenant.slug, 'current'], { ...current, tenant });
  keep('org', tenant.slug);
  client.setQueryData<Tenant[]>(['tenants'], (held) => held?.map((one) => (one.id === tenant.id ? tenant : one)));
  return tenant;
}
