// Who is in an organisation, who is invited, and what roles there are. What changes them is in src/actions.
import { request } from './client';
import type { Invite, InvitePreview, Person, Roles } from './views';

/** Path of an organisation's own routes. */
export const tenantPath = (org: string, ...rest: string[]): string =>
  ['tenants', org, ...rest].map(encodeURIComponent).join('/');

const items = async <T>(asked: Promise<{ items: T[] }>): Promise<T[]> => (await asked).items;

export const listMembers = (org: string, signal?: AbortSignal) =>
  items<Person>(request(tenantPath(org, 'members'), { signal }));

export const listInvites = (org: string, signal?: AbortSignal) =>
  items<Invite>(request(tenantPath(org, 'invites'), { signal }));

export const listRoles = (org: string, signal?: AbortSignal) => request<Roles>(tenantPath(org, 'roles'), { signal });

/** Who was let in for one server, each with that role alone. */
export const listAccess = (org: string, server: string, signal?: AbortSignal) =>
  items<Person>(request(`servers/${encodeURIComponent(server)}/access`, { org, signal }));

/** What an invitation is for, to whoever has its link; signed in or not. */
export const previewInvite = (id: string, token: string, signal?: AbortSignal) =>
  request<InvitePreview>(`invites/${encodeURIComponent(id)}/preview`, { method: 'POST', body: { token }, signal });
