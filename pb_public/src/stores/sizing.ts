// How big a server can be: between what the game needs and what is free for this organisation.
import type { Game } from '@/api/blueprints';
import type { Limits, PlacementNode, Quota } from '@/api/views';

export interface Slider {
  min: number;
  max: number;
  step: number;
  recommended: number;
}

export interface Sliders {
  memory_mib: Slider;
  cpu_millicores: Slider;
  disk_gib: Slider;
}

// Games that need little are set more finely.
const STEP = { memory_mib: 256, cpu_millicores: 250, disk_gib: 1 } as const;
const FINE = { memory_mib: 64, cpu_millicores: 250, disk_gib: 1 } as const;
// Where neither quota nor node says how far a slider goes.
const CEILING = { memory_mib: 32_768, cpu_millicores: 16_000, disk_gib: 500 } as const;

/** What is left of a quota. 0 as a quota means that it has no limit, and so does one that is not told. */
export function left(quota: Quota | null, used: Quota | null): Quota {
  const one = (k: keyof Quota) =>
    !quota || !used || quota[k] <= 0 ? Number.POSITIVE_INFINITY : Math.max(0, quota[k] - used[k]);
  return {
    servers: one('servers'),
    memory_mib: one('memory_mib'),
    cpu_millicores: one('cpu_millicores'),
    disk_mib: one('disk_mib'),
  };
}

/** The sliders of a game, given what is left of the quota and the nodes it could go to. */
export function sliders(game: Pick<Game, 'resources'>, free: Quota, nodes: PlacementNode[]): Sliders {
  const room = (k: 'memory_mib' | 'cpu_millicores' | 'disk_mib') =>
    nodes.length > 0 ? Math.max(...nodes.map((n) => n.free[k])) : Number.POSITIVE_INFINITY;
  const make = (k: keyof Sliders, need: { min: number; recommended: number }, limit: number): Slider => {
    const step = need.min < STEP[k] ? FINE[k] : STEP[k];
    const min = Math.max(step, Math.ceil(need.min / step) * step);
    const max = Math.max(min, Math.floor(Math.min(limit, CEILING[k]) / step) * step);
    return { min, max, step, recommended: Math.min(max, Math.max(min, need.recommended)) };
  };
  const r = game.resources;
  return {
    memory_mib: make('memory_mib', r.memoryMib, Math.min(free.memory_mib, room('memory_mib'))),
    cpu_millicores: make('cpu_millicores', r.cpuMillicores, Math.min(free.cpu_millicores, room('cpu_millicores'))),
    disk_gib: make('disk_gib', r.diskGib, Math.min(free.disk_mib, room('disk_mib')) / 1024),
  };
}

export const recommended = (s: Sliders): Limits => ({
  memory_mib: s.memory_mib.recommended,
  cpu_millicores: s.cpu_millicores.recommended,
  disk_gib: s.disk_gib.recommended,
});

/** Limits inside their sliders: the room for them may have shrunk since they were chosen. */
export function clamp(l: Limits, s: Sliders): Limits {
  const one = (k: keyof Limits) => Math.min(s[k].max, Math.max(s[k].min, l[k]));
  return { memory_mib: one('memory_mib'), cpu_millicores: one('cpu_millicores'), disk_gib: one('disk_gib') };
}

/** The largest hint that this much memory reaches, or undefined. */
export function hintFor(game: Pick<Game, 'hints'>, memoryMib: number) {
  return game.hints.filter((h) => h.memoryMib <= memoryMib).at(-1);
}

/**
 * Where a slider stops: every step while it is small, coarser steps the larger it gets, and always its ends, what
 * is recommended, and what is set now. So a phone's slider reaches 64 MiB as well as 32 GiB.
 */
export function stops(range: Slider, now: number): number[] {
  const found = new Set([range.min, range.max, range.recommended, now]);
  for (let n = range.min; n < range.max; ) {
    n += range.step * 2 ** Math.max(0, Math.floor(Math.log2(n / (4 * range.step))));
    found.add(Math.min(n, range.max));
  }
  return [...found].sort((a, b) => a - b);
}
