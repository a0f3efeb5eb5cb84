// The audit log of an organisation.
import { pb, request } from './client';
import { fromBody } from './error';
import type { AuditEntry, Page } from './views';

export interface AuditQuery {
  actor?: string;
  action?: string;
  resource?: string;
  /** RFC 3339. */
  from?: string;
  to?: string;
  page?: number;
}

export const listAudit = (org: string, q: AuditQuery, signal?: AbortSignal) =>
  request<Page<AuditEntry>>('audit', { org, query: { ...q }, signal });

/** The log as a file. It is written down that it was taken. Throws ApiError. */
export async function exportAudit(org: string, q: AuditQuery, format: 'csv' | 'json'): Promise<File> {
  await pb.beforeSend?.('', {}); // a token that is good
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...q, page: undefined })) if (value) params.set(key, String(value));
  const answer = await fetch(`/api/v1/audit/export?${params}`, {
    method: 'POST',
    headers: { Authorization: pb.authStore.token, 'X-Tenant': org, 'Content-Type': 'application/json' },
    body: JSON.stringify({ format }),
  });
  if (!answer.ok)
    throw fromBody(answer.status, await answer.json().catch(() => undefined), answer.headers.get('X-Request-Id') ?? '');
  const name = /filename="([^"]+)"/.exec(answer.headers.get('Content-Disposition') ?? '')?.[1] ?? `audit.${format}`;
  return new File([await answer.blob()], name);
}
