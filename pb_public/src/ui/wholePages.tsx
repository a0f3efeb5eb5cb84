// Pages that stand for others: not there, broken, still loading. Plain on purpose: they are in the first load.
import { Link } from '@tanstack/react-router';
import { t } from '@/texts';
import { Logo } from './Logo';
import { useTitle } from './useTitle';
import classes from './wholePages.module.css';

export function MissingPage() {
  useTitle(t('error.notFound'));
  return (
    <main className={classes.page}>
      <Logo size={44} />
      <h1>{t('error.notFound')}</h1>
      <p className="muted">{t('error.notFoundLead')}</p>
      <Link to="/" className={classes.action}>
        {t('error.home')}
      </Link>
    </main>
  );
}

export function CrashPage() {
  useTitle(t('error.crash'));
  return (
    <div className={classes.page} role="alert">
      <Logo size={44} />
      <h1>{t('error.crash')}</h1>
      <p className="muted">{t('error.crashLead')}</p>
      <button type="button" className={classes.action} onClick={() => location.reload()}>
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
