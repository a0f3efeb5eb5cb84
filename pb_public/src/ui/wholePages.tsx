// Pages that stand for others: not there, broken, still loading. Plain on purpose: they are in the first load.
import { Link } from '@tanstack/react-router';
import { useEffect } from 'react';
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

const LOOK_MS = 3000;

/** Whether a part of the app could not be fetched: the panel is away, or a newer version of it is there. */
export const isMissingPart = (cause: unknown): boolean =>
  cause instanceof Error && /dynamically imported module|importing a module script failed/i.test(cause.message);

/** Loads the page again as soon as the panel answers. */
function ComingBack() {
  useTitle(t('error.part'));
  useEffect(() => {
    const timer = setInterval(async () => {
      const answer = await fetch('/api/health').catch(() => null); // away still
      if (answer?.ok) location.reload();
    }, LOOK_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <div className={classes.page} role="alert">
      <Logo size={44} />
      <h1>{t('error.part')}</h1>
      <p className="muted">{t('error.partLead')}</p>
      <button type="button" className={classes.action} onClick={() => location.reload()}>
        {t('error.reload')}
      </button>
    </div>
  );
}

export function CrashPage({ error }: { error?: unknown }) {
  return isMissingPart(error) ? <ComingBack /> : <Crashed />;
}

function Crashed() {
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
