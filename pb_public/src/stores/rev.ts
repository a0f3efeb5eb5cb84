// Realtime events are hints: what is newer counts, what is not is dropped. This is where that is decided.

/** Anything the panel counts changes of. */
export interface Revised {
  id: string;
  rev: number;
}

/** Whether `next` may take the place of `held`. Equal revisions carry the same facts: no change. */
export function isNewer(held: Revised | undefined, next: Revised): boolean {
  return held === undefined || next.rev > held.rev;
}

/**
 * The newer of two views of the same thing. Fields that only the older one has (a detail's install
 * log) stay. Returns `held` itself when nothing changes, so that nobody draws again.
 */
export function newer<T extends Revised>(held: T | undefined, next: T): T {
  if (held === undefined || held.id !== next.id) return next;
  return next.rev > held.rev ? { ...held, ...next } : held;
}

/** Puts the newer views into a list, in place. Returns `held` itself when nothing changes. */
export function refresh<T extends Revised>(held: T[], next: T): T[] {
  const at = held.findIndex((one) => one.id === next.id);
  const found = held[at];
  if (found === undefined || next.rev <= found.rev) return held;
  return held.map((one, i) => (i === at ? newer(one, next) : one));
}
