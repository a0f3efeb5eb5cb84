// Remembers which organisation is shown, for the next visit.
import type { Tenant } from '@/api/views';
import { keep, kept } from '@/stores/kept';

export const rememberTenant = (slug: string): void => keep('org', slug);

/** The organisation to show first: the last one, while one still belongs to it, else the first. */
export function firstTenant(tenants: Tenant[]): Tenant | undefined {
  const last = kept('org');
  return tenants.find((one) => one.slug === last || one.id === last) ?? tenants[0];
}
