import { ago, exact } from './format';
import { useNow } from './useNow';

/** A time as "3 minutes ago", the exact one on hover. */
export function Ago({ at }: { at: string | number }) {
  const now = useNow();
  const iso = typeof at === 'number' ? new Date(at).toISOString() : at;
  return (
    <time dateTime={iso} title={exact(at)} className="num">
      {ago(at, Math.max(now, Date.now()))}
    </time>
  );
}
