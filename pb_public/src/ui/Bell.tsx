import { IconBell } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { noticesQuery } from '@/stores/queries';
import { t } from '@/texts';
import classes from './Bell.module.css';

const MOST = 99; // a larger number says no more

/** The way to the notices, with how many are unread. */
export function Bell({ org, className, size }: { org: string; className?: string; size: number }) {
  const unread = useQuery(noticesQuery(1)).data?.unread ?? 0;
  return (
    <Link
      to="/o/$org/notices"
      params={{ org }}
      className={className}
      activeProps={{ 'data-here': true }}
      aria-label={unread ? t('notices.unread', { count: unread }) : t('notices.title')}
    >
      <IconBell size={size} stroke={1.7} aria-hidden="true" />
      {t('notices.title')}
      {unread > 0 && (
        <span className={classes.badge} aria-hidden="true">
          {unread > MOST ? `${MOST}+` : unread}
        </span>
      )}
    </Link>
  );
}
