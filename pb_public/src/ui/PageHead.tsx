import { Link, type LinkProps } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { t } from '@/texts';
import classes from './PageHead.module.css';
import { useTitle } from './useTitle';

export interface Crumb {
  text: string;
  link: LinkProps;
}

/** Where one is: a trail of links. The page's own name is its heading below. */
export function Crumbs({ crumbs, here }: { crumbs: Crumb[]; here: string }) {
  return (
    <nav aria-label={t('frame.breadcrumbs')} className={classes.crumbs}>
      <ol>
        {crumbs.map((c) => (
          <li key={c.text}>
            <Link {...c.link}>{c.text}</Link>
          </li>
        ))}
        <li aria-current="page">{here}</li>
      </ol>
    </nav>
  );
}

/** Breadcrumbs, title, lead and the page's one primary action. */
export function PageHead({
  crumbs = [],
  title,
  lead,
  action,
}: {
  crumbs?: Crumb[];
  title: string;
  lead?: ReactNode;
  action?: ReactNode;
}) {
  useTitle(title);
  return (
    <header className={classes.head}>
      {crumbs.length > 0 && <Crumbs crumbs={crumbs} here={title} />}
      <div className={classes.row}>
        <div>
          <h1>{title}</h1>
          {lead && <p className="muted">{lead}</p>}
        </div>
        {action}
      </div>
    </header>
  );
}
