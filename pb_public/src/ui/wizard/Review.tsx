import type { Game } from '@/api/blueprints';
import type { Limits } from '@/api/views';
import { t } from '@/texts';
import { cores, gib, mib } from '../format';
import { GameArt } from '../GameArt';
import classes from './wizard.module.css';

export interface SummaryRow {
  key: string;
  value?: string;
  size?: Limits;
  /** Shown beside the steps, but too short for the last look. */
  brief?: boolean;
  /** Shown in the last look only. */
  full?: boolean;
}

function Rows({ rows }: { rows: SummaryRow[] }) {
  return (
    <dl className={classes.rows}>
      {rows.map((r) => (
        <div key={r.key}>
          <dt>{r.key}</dt>
          <dd className="num">
            {r.value}
            {r.size && (
              <>
                <span>{mib(r.size.memory_mib)}</span>
                <span>{cores(r.size.cpu_millicores)}</span>
                <span>{t('create.diskSize', { size: gib(r.size.disk_gib) })}</span>
              </>
            )}
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** What was chosen so far, beside the steps. */
export function Summary({ rows, game, lead }: { rows: SummaryRow[]; game?: Game; lead?: string }) {
  return (
    <aside className={classes.summary} aria-label={t('create.summary')}>
      {game && <GameArt slug={game.slug} name={game.name} url={game.iconUrl} wide />}
      <div>
        <h2>{t('create.summary')}</h2>
        {lead && <p className="muted">{lead}</p>}
        <Rows rows={rows.filter((r) => !r.full)} />
      </div>
    </aside>
  );
}

/** The last look before it is made. */
export function Review({ rows }: { rows: SummaryRow[] }) {
  return (
    <>
      <p className="muted">{t('create.reviewLead')}</p>
      <div className={classes.review}>
        <Rows rows={rows.filter((r) => !r.brief)} />
      </div>
    </>
  );
}
