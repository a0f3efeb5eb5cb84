import { useQueryClient } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { readOne } from '@/actions/notices';
import type { Notice } from '@/api/views';
import { safeNext } from '@/stores/session';

/** The way to what a notice is about. Who goes it has read the notice. */
export function NoticeLink({
  one,
  className,
  opened,
  children,
}: {
  one: Notice;
  className?: string;
  opened?: () => void;
  children: ReactNode;
}) {
  const client = useQueryClient();
  const open = () => {
    if (one.read_at === null) readOne(client, one.id).catch(() => undefined); // it stays unread, and says so
    opened?.();
  };
  const path = one.server ? `/o/${one.tenant}/servers/${one.server}` : safeNext(one.link);
  if (path.startsWith('/_/')) {
    return (
      <a href={path} className={className} onClick={open}>
        {children}
      </a>
    );
  }
  return (
    <Link to={path as '/'} className={className} onClick={open}>
      {children}
    </Link>
  );
}
