// Archives of all that an organisation has.
import { pb, request } from './client';
import { fromBody } from './error';
import { tenantPath } from './people';
import type { Export } from './views';

export async function listExports(org: string, signal?: AbortSignal): Promise<Export[]> {
  return (await request<{ items: Export[] }>(tenantPath(org, 'exports'), { signal })).items;
}

/** The archive as a file: a token for this one download, which is in a header and in no address. Throws ApiError. */
export async function fetchExport(org: string, id: string): Promise<File> {
  const { token } = await request<{ token: string }>(tenantPath(org, 'exports', id, 'token'), { method: 'POST' });
  const answer = await fetch(`/api/v1/${tenantPath(org, 'exports', id, 'download')}`, {
    headers: { Authorization: pb.authStore.token, 'X-Download-Token': token },
  });
  if (!answer.ok)
    throw fromBody(answer.status, await answer.json().catch(() => undefined), answer.headers.get('X-Request-Id') ?? '');
  const name = /filename="([^"]+)"/.exec(answer.headers.get('Content-Disposition') ?? '')?.[1] ?? `${org}.zip`;
  return new File([await answer.blob()], name);
}
