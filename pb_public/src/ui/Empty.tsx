import type { ReactNode } from 'react';
import classes from './Empty.module.css';

/** What a page is for while nothing is on it, and the next step. */
export function Empty({
  icon,
  title,
  lead,
  children,
}: {
  icon: ReactNode;
  title: string;
  lead: string;
  children?: ReactNode;
}) {
  return (
    <section className={classes.box}>
      <span className={classes.icon}>{icon}</span>
      <h2>{title}</h2>
      <p className="muted">{lead}</p>
      {children && <div className={classes.actions}>{children}</div>}
    </section>
  );
}
