import { Tooltip } from '@mantine/core';
import { IconSearch, IconServer2, IconSettings, IconUserCircle } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { Link, useLocation, useRouter } from '@tanstack/react-router';
import { lazy, type ReactNode, Suspense, useEffect, useState } from 'react';
import type { Tenant } from '@/api/views';
import { useLiveNotices } from '@/stores/notices';
import { usePermissions } from '@/stores/permissions';
import { accountQuery } from '@/stores/queries';
import { t } from '@/texts';
import { AccountMenu } from './AccountMenu';
import { Bell, BellLink } from './Bell';
import classes from './Frame.module.css';
import { Switcher } from './Switcher';
import { useKeptPush } from './useKeptPush';

const Palette = lazy(() => import('./Palette'));
const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

/** Rail or bars, palette, skip link, and the main part with the page in it. */
export function Frame({
  tenants,
  org,
  notices,
  children,
}: {
  tenants: Tenant[];
  org: string;
  notices?: ReactNode;
  children: ReactNode;
}) {
  const [palette, setPalette] = useState(false);
  const account = useQuery(accountQuery).data;
  const settings = usePermissions(org).can('tenant.read');
  useFetchedPages();
  useLiveNotices(account?.id);
  useKeptPush(account?.id);
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key.toLowerCase() === 'k' && (e.ctrlKey || e.metaKey) && !e.altKey && !e.shiftKey) {
        e.preventDefault();
        setPalette((open) => !open);
      }
    };
    addEventListener('keydown', key);
    return () => removeEventListener('keydown', key);
  }, []);
  return (
    <div className={classes.frame}>
      <a className={classes.skip} href="#main">
        {t('app.skip')}
      </a>
      <header className={classes.rail}>
        <Switcher tenants={tenants} org={org} />
        <Tooltip label={isMac ? '⌘ K' : 'Ctrl K'} position="right">
          <button
            type="button"
            className={classes.search}
            onClick={() => setPalette(true)}
            aria-keyshortcuts="Control+K Meta+K"
          >
            <IconSearch size={17} aria-hidden="true" />
            <span>{t('frame.searchLong')}</span>
          </button>
        </Tooltip>
        <nav aria-label={t('frame.navigation')}>
          <Link to="/o/$org/servers" params={{ org }} className={classes.item} activeProps={{ 'data-here': true }}>
            <IconServer2 size={19} stroke={1.7} aria-hidden="true" />
            {t('frame.servers')}
          </Link>
          {settings && (
            <Link to="/o/$org/settings" params={{ org }} className={classes.item} activeProps={{ 'data-here': true }}>
              <IconSettings size={19} stroke={1.7} aria-hidden="true" />
              {t('frame.settings')}
            </Link>
          )}
          <Bell org={org} className={classes.item} size={19} />
        </nav>
        <div className={classes.foot}>{account && <AccountMenu account={account} />}</div>
      </header>
      <div className={classes.top}>
        <Switcher tenants={tenants} org={org} />
      </div>
      <div className={classes.body}>
        {notices}
        <main id="main" tabIndex={-1} className={classes.main}>
          {children}
        </main>
      </div>
      <nav className={classes.bar} aria-label={t('frame.navigation')}>
        <Link to="/o/$org/servers" params={{ org }} activeProps={{ 'data-here': true }}>
          <IconServer2 size={22} stroke={1.7} aria-hidden="true" />
          {t('frame.servers')}
        </Link>
        <BellLink org={org} size={22} />
        <button type="button" onClick={() => setPalette(true)}>
          <IconSearch size={22} stroke={1.7} aria-hidden="true" />
          {t('frame.search')}
        </button>
        {settings && (
          <Link to="/o/$org/settings" params={{ org }} activeProps={{ 'data-here': true }}>
            <IconSettings size={22} stroke={1.7} aria-hidden="true" />
            {t('frame.settings')}
          </Link>
        )}
        <Link to="/o/$org/account" params={{ org }} activeProps={{ 'data-here': true }}>
          <IconUserCircle size={22} stroke={1.7} aria-hidden="true" />
          {t('frame.account')}
        </Link>
      </nav>
      {palette && (
        <Suspense>
          <Palette org={org} tenants={tenants} onClose={() => setPalette(false)} />
        </Suspense>
      )}
      <Announcer />
    </div>
  );
}

const IDLE_MS = 2000; // after the first page has what it needs

/** Fetches the code of the other pages, so that they open at once, and also while the panel is away. */
function useFetchedPages() {
  const router = useRouter();
  useEffect(() => {
    const timer = setTimeout(() => {
      for (const route of Object.values(router.routesById)) {
        if (route.id.startsWith('/_app/o/')) router.loadRouteChunk(route)?.catch(() => undefined); // asked for again when needed
      }
    }, IDLE_MS);
    return () => clearTimeout(timer);
  }, [router]);
}

/** Reads the new page's title out after each navigation, as a page load would. */
function Announcer() {
  const path = useLocation({ select: (l) => l.pathname });
  const [said, setSaid] = useState('');
  // biome-ignore lint/correctness/useExhaustiveDependencies: the path is what it waits for
  useEffect(() => {
    const timer = setTimeout(() => setSaid(document.title), 100); // after the page has named itself
    return () => clearTimeout(timer);
  }, [path]);
  return (
    <div role="status" className={classes.announcer}>
      {said}
    </div>
  );
}

/** The quiet line at the top of a page. */
export function QuietLine({ tone = 'attention', children }: { tone?: 'attention' | 'broken'; children: ReactNode }) {
  return (
    <div className={classes.quiet} data-tone={tone} role="status">
      {children}
    </div>
  );
}
