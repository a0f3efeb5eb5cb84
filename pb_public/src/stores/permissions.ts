// The one place where the screen asks what somebody may do. It only hides; the panel decides.
import { useQuery } from '@tanstack/react-query';
import type { Current, Server, Tenant } from '@/api/views';
import { currentQuery } from './queries';

export type Permission =
  | 'tenant.read'
  | 'tenant.update'
  | 'tenant.transfer'
  | 'tenant.delete'
  | 'tenant.export'
  | 'member.invite'
  | 'member.update'
  | 'member.remove'
  | 'role.manage'
  | 'key.manage'
  | 'audit.read'
  | 'server.read'
  | 'server.create'
  | 'server.update'
  | 'server.delete'
  | 'server.start'
  | 'server.stop'
  | 'server.restart'
  | 'server.kill'
  | 'server.reinstall'
  | 'server.activity'
  | 'console.read'
  | 'console.write';

export interface Permissions {
  can(permission: Permission): boolean;
  /** What is possible with the server now, and allowed. */
  actions(server: Pick<Server, 'actions'>): string[];
}

// What concerns the organisation and not one of its servers.
const whole = /^(tenant|member|role|audit|key)\.|^server\.create$/;
// What is left in one that is suspended or being deleted: to look, to take its data along, to end it or not after all.
const lasting = /\.(read|activity)$|^tenant\.(delete|export)$/;

/** `current` says what somebody may do anywhere; who was let in for single servers may do it there alone. */
export function permissionsOf(
  current: (Pick<Current, 'permissions' | 'quota'> & { tenant: Pick<Tenant, 'status'> }) | undefined,
): Permissions {
  const have = new Set(current?.permissions ?? []);
  const bound = current?.quota === null;
  const still = current !== undefined && current.tenant.status !== 'ACTIVE';
  const can = (permission: string) =>
    (have.has(permission) || have.has('*')) &&
    !(bound && whole.test(permission)) &&
    !(still && !lasting.test(permission));
  return { can, actions: (server) => (server.actions ?? []).filter((a) => can(`server.${a}`)) };
}

/** Permissions in an organisation. Nothing is allowed until the panel has answered. */
export function usePermissions(org: string): Permissions {
  return permissionsOf(useQuery(currentQuery(org)).data);
}
