// Makes, changes and deletes the organisation's own roles. The panel's answer is what is shown.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import type { Role, Roles } from '@/api/views';
import { again } from '@/stores/live';

export interface RoleContent {
  name: string;
  description: string;
  permissions: string[];
}

const key = (org: string) => ['org', org, 'roles'];

/** `id` is "" for a new role. */
export async function saveRole(client: QueryClient, org: string, id: string, content: RoleContent): Promise<Role> {
  const body = { ...content, name: content.name.trim(), description: content.description.trim() };
  const role = await request<Role>(id ? tenantPath(org, 'roles', id) : tenantPath(org, 'roles'), {
    method: id ? 'PATCH' : 'POST',
    body,
    idempotencyKey: newKey(),
  });
  client.setQueryData<Roles>(key(org), (held) => {
    if (!held) return held;
    const items = id ? held.items.map((one) => (one.id === id ? role : one)) : [...held.items, role];
    return { ...held, items };
  });
  again(client, org, 'members', 'access', 'invites', 'current'); // they show its name; it may be one's own
  return role;
}

export async function deleteRole(client: QueryClient, org: string, id: string): Promise<void> {
  await request(tenantPath(org, 'roles', id), { method: 'DELETE', idempotencyKey: newKey() });
  client.setQueryData<Roles>(key(org), (held) => held && { ...held, items: held.items.filter((one) => one.id !== id) });
  again(client, org, 'invites'); // those to it have ended
}
