// The one place where the screen asks what somebody may do. It only hides; the panel decides.
import { useQuery } from '@tanstack/react-query';
import type { Server } from '@/api/views';
import { currentQuery } from './queries';

export type Permission =
  | 'tenant.update'
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

export function permissionsOf(granted: string[] | undefined): Permissions {
  const have = new Set(granted ?? []);
  const can = (permission: string) => have.has(permission) || have.has('*');
  return { can, actions: (server) => (server.actions ?? []).filter((a) => can(`server.${a}`)) };
}

/** Permissions in an organisation. Nothing is allowed until the panel has answered. */
export function usePermissions(org: string): Permissions {
  return permissionsOf(useQuery(currentQuery(org)).data?.permissions);
}
