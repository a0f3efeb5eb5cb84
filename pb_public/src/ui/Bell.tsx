import { Button, Popover, Skeleton, UnstyledButton } from '@mantine/core';
import { IconBell } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { Link, useLocation } from '@tanstack/react-router';
import { useId, useState } from 'react';
import { readAll } from '@/actions/notices';
import { noticesQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Ago } from './Ago';
import classes from './Bell.module.css';
import { Failure } from './Failure';
import { NoticeLink } from './NoticeLink';
import { useAct } from './useAct';

const MOST = 99; // a larger number says no more
const SHOWN = 8; // the newest; the page has all

function useUnread(): number {
  return useQuery(noticesQuery(1)).data?.unread ?? 0;
}

function Face({ size, unread }: { size: number; unread: number }) {
  return (
    <>
      <IconBell size={size} stroke={1.7} aria-hidden="true" />
      {t('notices.title')}
      {unread > 0 && (
        <span className={classes.badge} aria-hidden="true">
          {unread > MOST ? `${MOST}+` : unread}
        </span>
      )}
    </>
  );
}

const nameOf = (unread: number) => (unread ? t('notices.unread', { count: unread }) : t('notices.title'));

/** The way to the page of the notices, with how many are unread: on a phone, where a panel would be all of it. */
export function BellLink({ org, size }: { org: string; size: number }) {
  const unread = useUnread();
  return (
    <Link to="/o/$org/notices" params={{ org }} activeProps={{ 'data-here': true }} aria-label={nameOf(unread)}>
      <Face size={size} unread={unread} />
    </Link>
  );
}

/** The bell with a panel of the newest notices beside it. */
export function Bell({ org, className, size }: { org: string; className?: string; size: number }) {
  const [open, setOpen] = useState(false);
  const unread = useUnread();
  const here = useLocation({ select: (l) => l.pathname.replace(/\/$/, '') === `/o/${org}/notices` });
  const title = useId();
  return (
    <Popover
      opened={open}
      onChange={setOpen}
      position="right-start"
      offset={22} // beside the rail, not over its edge
      width="min(25rem, calc(100vw - 2rem))"
      shadow="md"
      trapFocus
      returnFocus
      transitionProps={{ duration: 80 }}
    >
      <Popover.Target>
        <UnstyledButton
          className={`${classes.bell} ${className ?? ''}`}
          data-here={here || undefined}
          aria-label={nameOf(unread)}
          onClick={() => setOpen(!open)}
        >
          <Face size={size} unread={unread} />
        </UnstyledButton>
      </Popover.Target>
      <Popover.Dropdown className={classes.panel} aria-labelledby={title}>
        <Panel org={org} title={title} close={() => setOpen(false)} />
      </Popover.Dropdown>
    </Popover>
  );
}

function Panel({ org, title, close }: { org: string; title: string; close: () => void }) {
  const client = useQueryClient();
  const notices = useQuery(noticesQuery(1));
  const { run, busy } = useAct(() => readAll(client));
  const data = notices.data;
  return (
    <>
      <header className={classes.head}>
        <h2 id={title}>{t('notices.title')}</h2>
        {data && data.unread > 0 && (
          <Button variant="subtle" size="compact-sm" loading={busy} onClick={() => void run()}>
            {t('notices.readAll')}
          </Button>
        )}
      </header>
      {!data ? (
        notices.error ? (
          <Failure cause={notices.error} retry={() => void notices.refetch()} />
        ) : (
          <div className={classes.wait} role="status" aria-label={t('notices.loading')}>
            <Skeleton height={44} radius={8} />
            <Skeleton height={44} radius={8} />
            <Skeleton height={44} radius={8} />
          </div>
        )
      ) : data.items.length === 0 ? (
        <div className={classes.none}>
          <strong>{t('notices.none')}</strong>
          <p className="muted">{t('notices.noneLead')}</p>
        </div>
      ) : (
        <ul className={classes.list}>
          {data.items.slice(0, SHOWN).map((one) => (
            <li key={one.id} data-unread={one.read_at === null || undefined} data-testid="bell-notice">
              <NoticeLink one={one} className={classes.one} opened={close}>
                <span className={classes.subject}>
                  {one.read_at === null && (
                    <span className={classes.new}>
                      <span className={classes.dot} aria-hidden="true" />
                      <span className={classes.spoken}>{t('notices.new')}: </span>
                    </span>
                  )}
                  {one.subject}
                </span>
                <span className={classes.body}>{one.body}</span>
                <span className={classes.about}>
                  {t(`notices.severity.${one.severity}`)} · {one.org && `${one.org} · `}
                  <Ago at={one.at} />
                </span>
              </NoticeLink>
            </li>
          ))}
        </ul>
      )}
      <footer className={classes.foot}>
        <Link to="/o/$org/notices" params={{ org }} onClick={close}>
          {t('notices.all')}
        </Link>
        <Link to="/o/$org/account/notices" params={{ org }} onClick={close}>
          {t('notices.choose')}
        </Link>
      </footer>
    </>
  );
}
