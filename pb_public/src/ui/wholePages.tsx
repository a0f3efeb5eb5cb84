// Pages that stand for others: not there, broken, still loading. Plain on purpose: they are in the first load.
import { Link } from '@tanstack/react-router';
import { t } from '@/texts';
import { useTitle } from './useTitle';
import classes from './wholePages.module.css';

export function MissingPage() {
  useTitle(t('error.notFound'));
  return (
    <div className={classes.page}>
      <h1>{t('error.notFound')}</h1>
      <p className="muted">{t('error.notFoundLead')}</p>
      <Link to="/">{t('error.home')}</Link>
    </div>
  );
}

export function CrashPage() {
  useTitle(t('error.crash'));
  return (
    <div className={classes.page} role="alert">
      <h1>{t('error.crash')}</h1>
      <p className="muted">{t('error.crashLead')}</p>
      <button type="button" onClick={() => location.reload()}>
        {t('error.reload')}
      </button>
    </div>
  );
}

export function LoadingPage() {
  return (
    <div className={classes.page} role="status">
      <span className={classes.bar} />
      <p className="muted">{t('app.loading')}</p>
    </div>
  );
}
