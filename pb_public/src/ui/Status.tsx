import type { Server } from '@/api/views';
import { statusSentence, statusWord, toneOf } from '@/stores/phase';
import classes from './Status.module.css';
import { useNow } from './useNow';

/** A dot and the status sentence. */
export function StatusLine({ server }: { server: Server }) {
  const now = useNow();
  return (
    <span className={classes.line} data-tone={toneOf(server)} data-status={server.status}>
      <span className={classes.dot} aria-hidden="true" />
      <span className="num">{statusSentence(server, Math.max(now, Date.now()))}</span>
    </span>
  );
}

/** A dot and the status word, boxed. */
export function StatusPill({ server }: { server: Pick<Server, 'status' | 'suspended'> }) {
  return (
    <span className={classes.pill} data-tone={toneOf(server)} data-status={server.status} data-testid="status">
      <span className={classes.dot} aria-hidden="true" />
      {statusWord(server)}
    </span>
  );
}
