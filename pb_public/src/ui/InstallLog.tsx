import { useEffect, useRef, useState } from 'react';
import type { ConsoleLink } from '@/stores/console';
import { type Entry, plain } from '@/stores/lines';
import { t } from '@/texts';
import { gapText } from './gapText';
import classes from './InstallLog.module.css';

const SHOWN = 400; // lines; the console has the rest

/** The install's output as it comes, or the kept end of it when nothing comes any more. */
export function InstallLog({ link, kept }: { link?: ConsoleLink | null; kept: string }) {
  const [lines, setLines] = useState<Entry[]>([]);
  const box = useRef<HTMLPreElement>(null);
  const follow = useRef(true);
  useEffect(() => {
    if (!link) return;
    setLines(link.lines.entries.slice(-SHOWN));
    return link.read(() => setLines(link.lines.entries.slice(-SHOWN)));
  }, [link]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: each new line moves it
  useEffect(() => {
    if (follow.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const text =
    lines.length > 0
      ? lines.map((e) => (e.kind === 'gap' ? gapText(e) : plain(e.text))).join('\n')
      : plain(kept.replace(/\r\n?/g, '\n'));
  return (
    <pre
      ref={box}
      className={classes.log}
      tabIndex={0}
      role="log"
      aria-live="off"
      aria-label={t('install.log')}
      data-testid="install-log"
      onScroll={(e) => {
        const el = e.currentTarget;
        follow.current = el.scrollHeight - el.scrollTop - el.clientHeight < 24;
      }}
    >
      {text || t('console.empty')}
    </pre>
  );
}
