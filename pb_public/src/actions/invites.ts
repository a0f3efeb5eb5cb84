// Invites somebody by mail, sends an invitation again, takes one back, and accepts one.
import type { QueryClient } from '@tanstack/react-query';
import { newKey, request } from '@/api/client';
import { tenantPath } from '@/api/people';
import { listServers } from '@/api/servers';
import type { Invite, Tenant } from '@/api/views';
import { keep } from '@/stores/kept';
import { again } from '@/stores/live';

export interface NewInvite {
  email: string;
  role: string;
  /** Id of the one server that it is for; "" for the whole organisation. */
  server: string;
}

const key = (org: string) => ['org', org, 'invites'];

export async function invite(client: QueryClient, org: string, who: NewInvite): Promise<Invite> {
  const { server, role } = who;
  const made = await request<Invite>(tenantPath(org, 'members', 'invite'), {
    method: 'POST',
    body: { email: who.email.trim(), role, ...(server ? { server } : {}) },
    idempotencyKey: newKey(),
  });
  client.setQueryData<Invite[]>(key(org), (held) => held && [...held.filter((one) => one.id !== made.id), made]);
  return made;
}

/** It lasts for seven days again, which the list is asked for. */
export async function resendInvite(client: QueryClient, org: string, id: string): Promise<void> {
  await request(tenantPath(org, 'invites', id, 'resend'), { method: 'POST', idempotencyKey: newKey() });
  again(client, org, 'invites');
}

export async function revokeInvite(client: QueryClient, org: string, id: string): Promise<void> {
  await request(tenantPath(org, 'invites', id), { method: 'DELETE', idempotencyKey: newKey() });
  client.setQueryData<Invite[]>(key(org), (held) => held?.filter((one) => one.id !== id));
}

/**
 * Joins the organisation of an invitation. The account's address counts as confirmed from then on. Answers where to
 * go: the server, when the invitation was for one.
 */
export async function acceptInvite(
  client: QueryClient,
  invitation: { id: string; token: string },
  serverName: string,
): Promise<{ org: string; server: string }> {
  const tenant = await request<Tenant>(`invites/${encodeURIComponent(invitation.id)}/accept`, {
    method: 'POST',
    body: { token: invitation.token },
    idempotencyKey: newKey(),
  });
  keep('org', tenant.slug);
  await Promise.all(['tenants', 'account', 'org'].map((kind) => client.invalidateQueries({ queryKey: [kind] })));
  return { org: tenant.slug, server: serverName ? await serverOf(tenant.slug, serverName) : '' };
}

/** The server of that name, or "" when it is gone, or cannot be told from another. */
async function serverOf(org: string, name: string): Promise<string> {
  try {
    const { items } = await listServers(org, { search: name });
    const same = items.filter((one) => one.name === name);
    return same.length === 1 ? (same[0]?.id ?? '') : '';
  } catch {
    return ''; // one is in: the list of servers says what is wrong
  }
}
