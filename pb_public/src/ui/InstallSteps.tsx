import { IconCheck, IconX } from '@tabler/icons-react';
import type { Step } from '@/stores/phase';
import { t } from '@/texts';
import classes from './InstallSteps.module.css';

/** The steps of an install, ticking off. */
export function InstallSteps({ steps }: { steps: Step[] }) {
  return (
    <ol className={classes.steps} aria-label={t('install.steps')}>
      {steps.map((s) => (
        <li key={s.key} data-state={s.state} aria-current={s.state === 'now' ? 'step' : undefined}>
          <span className={classes.mark} aria-hidden="true">
            {s.state === 'done' && <IconCheck size={14} stroke={2.6} />}
            {s.state === 'failed' && <IconX size={14} stroke={2.6} />}
          </span>
          <div>
            <span className={classes.name}>{t(s.text)}</span>
            <span className={classes.state}>
              {t(s.state === 'failed' ? 'install.failedStep' : `install.${s.state}`)}
            </span>
            {s.message && <p className="muted">{s.message}</p>}
            {s.percent > 0 && (
              <progress className={classes.bar} max={100} value={s.percent} aria-label={t(s.text)}>
                {s.percent}
              </progress>
            )}
          </div>
        </li>
      ))}
    </ol>
  );
}
