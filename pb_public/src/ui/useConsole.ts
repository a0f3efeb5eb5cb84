import { useEffect, useState, useSyncExternalStore } from 'react';
import { ConsoleLink, type Link, panelConsole } from '@/stores/console';

const still: Link = { kind: 'connecting' };

/** The console of a server for as long as the component stands. */
export function useConsole(org: string, server: string): { link: ConsoleLink | null; state: Link } {
  const [link, setLink] = useState<ConsoleLink | null>(null);
  useEffect(() => {
    const one = new ConsoleLink(server, panelConsole(org, server));
    one.start();
    setLink(one);
    const now = () => one.retryNow();
    addEventListener('online', now);
    return () => {
      removeEventListener('online', now);
      one.stop();
    };
  }, [org, server]);
  const state = useSyncExternalStore(link?.watch ?? never, link?.snapshot ?? connecting);
  return { link, state };
}

const never = () => () => undefined;
const connecting = () => still;
