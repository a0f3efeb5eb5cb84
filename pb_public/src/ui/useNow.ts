// One clock for all relative times on the screen.
import { useSyncExternalStore } from 'react';

const TICK_MS = 15_000;
let now = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;
const watchers = new Set<() => void>();

function watch(watcher: () => void): () => void {
  watchers.add(watcher);
  if (watchers.size === 1) {
    now = Date.now();
    timer = setInterval(() => {
      now = Date.now();
      for (const one of watchers) one();
    }, TICK_MS);
  }
  return () => {
    watchers.delete(watcher);
    if (watchers.size === 0) clearInterval(timer);
  };
}

/** The time in ms, renewed every 15 s. */
export const useNow = (): number => useSyncExternalStore(watch, () => now);
