// Changes what a member may do in the whole organisation, or removes him from it.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Person, Role } from '@/api/views';
import { again } from '@/stores/live';

const key = (org: string) => ['org', org, 'members'];

/** Shown at once; goes back when the panel refuses. `role` is null for "only single servers". Throws ApiError. */
export async function setMemberRole(client: QueryClient, org: string, user: string, role: Role | null): Promise<void> {
  const before = client.getQueryData<Person[]>(key(org))?.find((one) => one.user === user);
  const put = (next: Person) =>
    client.setQueryData<Person[]>(key(org), (held) => held?.map((one) => (one.user === user ? next : one)));
  if (before) put({ ...before, role: role?.id ?? '', role_key: role?.key ?? '', role_name: role?.name ?? '' });
  try {
    put(
      await request<Person>(tenantPath(org, 'members', user), {
        method: 'PATCH',
        body: { role: role?.id ?? '' },
        idempotencyKey: newKey(),
      }),
    );
  } catch (cause) {
    if (before) put(before);
    throw cause;
  }
  again(client, org, 'roles');
}

export async function removeMember(client: QueryClient, org: string, user: string): Promise<void> {
  await request(tenantPath(org, 'members', user), { method: 'DELETE', idempotencyKey: newKey() });
  client.setQueryData<Person[]>(key(org), (held) => held?.filter((one) => one.user !== user));
  again(client, org, 'roles', 'access', 'current');
}
