import { useEffect, useState } from 'react';
import type { ConsoleLink } from '@/stores/console';
import { type Entry, plain } from '@/stores/lines';
import { t } from '@/texts';
import { gapText } from './gapText';
import classes from './SpokenLog.module.css';

const SHOWN = 60;
const GATHER_MS = 150; // many lines come at once; one update for all of them

/** The end of the console as plain text for screen readers. Silent until it is asked to read aloud. */
export function SpokenLog({ link, speak }: { link: ConsoleLink; speak: boolean }) {
  const [shown, setShown] = useState<Entry[]>([]);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const take = () => {
      timer = undefined;
      setShown(link.lines.entries.slice(-SHOWN));
    };
    take();
    const stop = link.read(() => {
      timer ??= setTimeout(take, GATHER_MS);
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [link]);
  return (
    <div
      className={classes.log}
      role="log"
      aria-live={speak ? 'polite' : 'off'}
      aria-label={t('console.log')}
      data-testid="console-text"
    >
      {shown.map((e) => (
        <p key={e.kind === 'line' ? e.seq : `gap-${e.from}`}>{e.kind === 'line' ? plain(e.text) : gapText(e)}</p>
      ))}
    </div>
  );
}
