// Who I am, where I belong and what I may do there.
import { request } from './client';
import type { Account, Current, Tenant } from './views';

export const getAccount = (signal?: AbortSignal) => request<Account>('account', { signal });

export async function listTenants(signal?: AbortSignal): Promise<Tenant[]> {
  return (await request<{ items: Tenant[] }>('tenants', { signal })).items;
}

export const getCurrent = (org: string, signal?: AbortSignal) => request<Current>('tenants/current', { org, signal });
