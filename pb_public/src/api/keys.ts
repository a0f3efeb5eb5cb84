// API keys: one's own, and an organisation's. `org` is "" for one's own.
import { newKey, request } from './client';
import { tenantPath } from './people';
import type { ApiKeys, MadeKey } from './views';

const path = (org: string, ...rest: string[]): string =>
  org ? tenantPath(org, 'keys', ...rest) : ['account', 'keys', ...rest.map(encodeURIComponent)].join('/');

export interface KeyContent {
  name: string;
  permissions: string[];
  servers: string[];
  addresses: string[];
  expires_at?: string;
}

export const listKeys = (org: string, signal?: AbortSignal) => request<ApiKeys>(path(org), { signal });

export const makeKey = (org: string, content: KeyContent) =>
  request<MadeKey>(path(org), { method: 'POST', body: content });

export const revokeKey = (org: string, id: string) =>
  request<void>(path(org, id), { method: 'DELETE', idempotencyKey: newKey() });
