import type { ReactNode } from 'react';
import classes from './Card.module.css';

/** A titled part of a page. */
export function Card({
  title,
  lead,
  tone,
  action,
  children,
}: {
  title?: string;
  lead?: string;
  tone?: 'danger' | 'plain';
  action?: ReactNode;
  children: ReactNode;
}) {
  return (
    <section className={classes.card} data-tone={tone}>
      {title && (
        <header>
          <div>
            <h2>{title}</h2>
            {lead && <p className="muted">{lead}</p>}
          </div>
          {action}
        </header>
      )}
      {children}
    </section>
  );
}

/** A sentence that stands out, with a tone and a way on. */
export function Notice({
  tone,
  title,
  children,
}: {
  tone: 'working' | 'attention' | 'broken';
  title?: string;
  children: ReactNode;
}) {
  return (
    <div className={classes.notice} data-tone={tone}>
      {title && <strong>{title}</strong>}
      <div>{children}</div>
    </div>
  );
}
