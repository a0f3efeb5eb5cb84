import type { ReactNode } from 'react';
import { t } from '@/texts';
import classes from './Door.module.css';
import { Logo } from './Logo';
import { useTitle } from './useTitle';

/** The frame of the pages before one is in: one card, one thing to do. */
export function Door({
  title,
  lead,
  icon,
  foot,
  children,
}: {
  title: string;
  lead?: ReactNode;
  icon?: ReactNode;
  foot?: ReactNode;
  children?: ReactNode;
}) {
  useTitle(title);
  return (
    <div className={classes.page}>
      <header className={classes.brand}>
        <Logo size={34} />
        <span>{t('app.name')}</span>
      </header>
      <main className={classes.card} id="main" tabIndex={-1}>
        {icon && <span className={classes.icon}>{icon}</span>}
        <h1>{title}</h1>
        {lead && <p className="muted">{lead}</p>}
        {children && <div className={classes.body}>{children}</div>}
      </main>
      {foot && <p className={classes.foot}>{foot}</p>}
      <p className={classes.motto}>{t('door.motto')}</p>
    </div>
  );
}
