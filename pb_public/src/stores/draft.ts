// The form of a new server while it is being filled in.
import type { NewServer } from '@/actions/createServer';
import type { Game, Variable } from '@/api/blueprints';
import type { ApiError } from '@/api/error';
import type { Limits } from '@/api/views';
import { t } from '@/texts';
import { checkName, checkVariable, placeError } from './rules';

export interface Draft {
  name: string;
  variant: string;
  /** "" lets the panel choose. */
  node: string;
  limits: Limits;
  variables: Record<string, string>;
}

export interface Faults {
  any: boolean;
  name: string;
  limits: Record<string, string>;
  variables: Record<string, string>;
  /** What belongs to no field. */
  other: string;
}

export const noFaults: Faults = { any: false, name: '', limits: {}, variables: {}, other: '' };

/** What a game's form starts with. */
export function draftOf(game: Game, limits: Limits): Draft {
  return {
    name: game.name,
    variant: (game.variants.find((v) => v.preset) ?? game.variants[0])?.key ?? '',
    node: '',
    limits,
    variables: Object.fromEntries(game.variables.map((v) => [v.key, v.preset])),
  };
}

/** What can be seen to be wrong before asking the panel. */
export function faultsOf(draft: Draft, game: Game): Faults {
  const variables = variableFaults(game.variables, draft.variables);
  const name = checkName(draft.name);
  return { ...noFaults, name, variables, any: name !== '' || Object.keys(variables).length > 0 };
}

export function variableFaults(variables: Variable[], values: Record<string, string>): Record<string, string> {
  const found: Record<string, string> = {};
  for (const v of variables) {
    if (!v.editable) continue; // not ours to get right
    const fault = checkVariable(v, values[v.key] ?? '');
    if (fault) found[v.key] = fault;
  }
  return found;
}

/** What was set otherwise than the game comes, as people read it. Secrets stay covered. */
export function changedVariables(draft: Draft, game: Pick<Game, 'variables'>): { name: string; value: string }[] {
  return game.variables
    .filter((v) => (draft.variables[v.key] ?? '') !== v.preset)
    .map((v) => ({ name: v.name, value: shownValue(v, draft.variables[v.key] ?? '') }));
}

function shownValue(v: Variable, value: string): string {
  if (v.kind === 'bool') return t(value === 'true' ? 'create.yes' : 'create.no');
  if (v.kind === 'secret') return '••••••••';
  if (value === '') return t('create.empty');
  return v.options.find((o) => o.value === value)?.label ?? value;
}

/** The panel's field errors, at the fields they belong to. */
export function placeFaults(error: ApiError, game: Pick<Game, 'variables'>): Faults {
  const faults: Faults = { any: false, name: '', limits: {}, variables: {}, other: '' };
  for (const [field, { message }] of Object.entries(error.fields)) {
    const { group, key } = placeError(field, game.variables);
    if (group === 'name') faults.name = message;
    else if (group === 'other') faults.other = [faults.other, message].filter(Boolean).join(' ');
    else faults[group][key] = message;
    faults.any = true;
  }
  return faults;
}

/** The request. Variables that stand as the game has them are left out, so that a new version may change them. */
export function toNewServer(draft: Draft, game: Game): NewServer {
  const variables: Record<string, string> = {};
  for (const v of game.variables) {
    const value = draft.variables[v.key] ?? '';
    if (v.editable && value !== v.preset) variables[v.key] = value;
  }
  return {
    name: draft.name.trim(),
    blueprint: game.slug,
    ...(draft.variant ? { variant: draft.variant } : {}),
    ...(draft.node ? { node: draft.node } : {}),
    limits: draft.limits,
    variables,
    start: true,
  };
}
