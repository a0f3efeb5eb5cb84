import { useLocation } from '@tanstack/react-router';
import { type ReactNode, useEffect, useRef } from 'react';
import classes from './Tabs.module.css';

/** Links to the parts of a page. On a phone they scroll sideways, and the one that is open stays in sight. */
export function Tabs({ label, children }: { label: string; children: ReactNode }) {
  const path = useLocation({ select: (l) => l.pathname });
  const nav = useRef<HTMLElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another page is another tab
  useEffect(() => {
    const row = nav.current;
    const here = row?.querySelector<HTMLElement>('[data-here]');
    if (row && here) row.scrollLeft = here.offsetLeft - row.offsetLeft - (row.clientWidth - here.offsetWidth) / 2;
  }, [path]);
  return (
    <nav ref={nav} className={classes.tabs} aria-label={label}>
      {children}
    </nav>
  );
}

/** What each link of the row has: it is marked on exactly its own page, and the page does not jump. */
export const tabLink = {
  activeOptions: { exact: true, includeSearch: false },
  activeProps: { 'data-here': true },
  resetScroll: false,
} as const;
