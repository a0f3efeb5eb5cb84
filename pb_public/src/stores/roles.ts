// Roles as people read them: what each may do, grouped; what can be given to others; what a new one may start with.
import type { PermissionInfo, Role } from '@/api/views';
import { type TextKey, t, tMaybe } from '@/texts';

/** What a permission allows, in the words of this app; the panel's own where it is newer than the app. */
export const allows = (p: Pick<PermissionInfo, 'key' | 'description'>): string =>
  tMaybe(`permission.${p.key}`) ?? p.description;

export interface Group {
  resource: string;
  name: string;
  permissions: PermissionInfo[];
}

// In the order in which somebody thinks of them, not in that of the alphabet.
const resources = ['server', 'console', 'tenant', 'member', 'role', 'key', 'audit'];
const order = ['read', 'start', 'stop', 'restart', 'kill', 'write', 'activity', 'create', 'invite', 'update'];

const place = (list: string[], value: string) => (list.includes(value) ? list.indexOf(value) : list.length);
const action = (key: string) => key.split('.').at(-1) ?? key;

/** All permissions by what they are about. */
export function grouped(permissions: PermissionInfo[]): Group[] {
  const found = new Map<string, PermissionInfo[]>();
  for (const p of permissions) found.set(p.resource, [...(found.get(p.resource) ?? []), p]);
  return [...found]
    .sort(([a], [b]) => place(resources, a) - place(resources, b) || a.localeCompare(b))
    .map(([resource, list]) => ({
      resource,
      name: tMaybe(`roles.group.${resource}`) ?? resource,
      permissions: list.sort(
        (a, b) => place(order, action(a.key)) - place(order, action(b.key)) || a.key.localeCompare(b.key),
      ),
    }));
}

/** What a role may do, by what it is about; groups of which it holds nothing are left out. */
export function heldBy(role: Pick<Role, 'permissions'>, permissions: PermissionInfo[]): Group[] {
  const held = new Set(role.permissions);
  return grouped(permissions.filter((p) => held.has(p.key)));
}

export interface Choice {
  value: string;
  label: string;
}

/** The roles that the viewer may hand out. */
export const assignable = (roles: Role[]): Choice[] =>
  roles.filter((r) => r.assignable).map((r) => ({ value: r.id, label: r.name }));

/** What a form starts with: the least that is offered to everybody. */
export function firstChoice(roles: Role[]): string {
  const open = roles.filter((r) => r.assignable);
  return (open.find((r) => r.key === 'MEMBER') ?? open[0])?.id ?? '';
}

export interface Preset {
  id: string;
  name: TextKey;
  lead: TextKey;
  /** The permissions it stands for, of those that the panel has. */
  of: (all: PermissionInfo[]) => string[];
}

const these =
  (...keys: string[]) =>
  (all: PermissionInfo[]) =>
    all.map((p) => p.key).filter((key) => keys.includes(key));

export const presets: Preset[] = [
  {
    id: 'console',
    name: 'roles.presetConsole',
    lead: 'roles.presetConsoleLead',
    of: these('server.read', 'console.read', 'console.write'),
  },
  {
    id: 'power',
    name: 'roles.presetPower',
    lead: 'roles.presetPowerLead',
    of: these('server.read', 'server.start', 'server.stop', 'server.restart'),
  },
  {
    id: 'look',
    name: 'roles.presetLook',
    lead: 'roles.presetLookLead',
    of: these('server.read', 'server.activity', 'console.read'),
  },
  {
    id: 'servers',
    name: 'roles.presetServers',
    lead: 'roles.presetServersLead',
    of: (all) => all.filter((p) => p.resource === 'server' || p.resource === 'console').map((p) => p.key),
  },
];

/** What a preset gives somebody who has not got all of it himself. */
export const presetFor = (preset: Preset, all: PermissionInfo[]): string[] => preset.of(all.filter((p) => p.yours));

/** The preset that a choice is, if it is one. */
export function presetOf(chosen: string[], all: PermissionInfo[]): Preset | undefined {
  const same = (keys: string[]) =>
    keys.length > 0 && keys.length === chosen.length && keys.every((k) => chosen.includes(k));
  return presets.find((p) => same(presetFor(p, all)));
}

/** How a member's role is called: of the whole organisation, or none but for single servers. */
export const roleName = (person: { role: string; role_name: string }): string =>
  person.role ? person.role_name : t('members.single');
