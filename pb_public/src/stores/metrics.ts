// What a server used: the newest values out of columns, and when to ask again.
import type { Metrics } from '@/api/views';

const WINDOW_MS = 30_000;
const ON_ITS_WAY_MS = 8_000; // from the end of a window until the panel has it: a node reads, writes and sends it
const FALLBACK_MS = 30_000;
const STALE_S = 150; // a value that is older is not "now"

/** Milliseconds until the next window can be there, by the panel's clock. */
export function untilNext(m: Metrics | undefined, answeredAt: number, now: number): number {
  if (!m) return FALLBACK_MS;
  const panel = m.now_unix_s * 1000 + (now - answeredAt);
  const next = (Math.floor((panel - ON_ITS_WAY_MS) / WINDOW_MS) + 1) * WINDOW_MS + ON_ITS_WAY_MS;
  return Math.min(Math.max(next - panel, 2_000), WINDOW_MS);
}

/** Index of the newest step of which something is known, −1 when there is none. */
export function newest(m: Metrics): number {
  for (let i = m.running_ms.length - 1; i >= 0; i--) if (m.running_ms[i] !== null) return i;
  return -1;
}

/** When the newest known step ended, in Unix seconds; 0 when nothing is known. */
export function measuredAt(m: Metrics): number {
  const i = newest(m);
  return i < 0 ? 0 : Math.min(m.from_unix_s + (i + 1) * m.step_s, m.now_unix_s);
}

/** Whether the newest values may be called the present ones. */
export function isLive(m: Metrics): boolean {
  const at = measuredAt(m);
  return at > 0 && m.now_unix_s - at <= Math.max(STALE_S, 2 * m.step_s);
}

/** The value of the newest known step: null when that one is not known. */
export function latest(m: Metrics, column: (number | null)[]): number | null {
  const i = newest(m);
  return i < 0 ? null : (column[i] ?? null);
}

export function peak(column: (number | null)[]): number {
  return column.reduce<number>((most, v) => Math.max(most, v ?? 0), 0);
}

/** Whether the server ran at all in the newest known step. */
export function ran(m: Metrics): boolean {
  return (latest(m, m.running_ms) ?? 0) > 0;
}

/** The middle of each step, as the x of a chart. */
export function times(m: Metrics): number[] {
  return m.running_ms.map((_, i) => m.from_unix_s + (i + 0.5) * m.step_s);
}
