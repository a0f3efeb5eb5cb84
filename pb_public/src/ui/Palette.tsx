import { Modal } from '@mantine/core';
import {
  IconBell,
  IconBuilding,
  IconLogout,
  IconPlus,
  IconPower,
  IconSearch,
  IconServer2,
  IconSettings,
  IconShieldHalf,
  IconTerminal2,
  IconUserCircle,
  IconUsers,
} from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { type ReactNode, useDeferredValue, useEffect, useId, useRef, useState } from 'react';
import { powerServer } from '@/actions/powerServer';
import { rememberTenant } from '@/actions/switchTenant';
import type { PowerAction, Server, Tenant } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { statusWord } from '@/stores/phase';
import { serversQuery } from '@/stores/queries';
import { rank } from '@/stores/rank';
import { type TextKey, t } from '@/texts';
import classes from './Palette.module.css';
import { toastDone, toastError } from './toast';
import { useSignOut } from './useSignOut';

interface Hit {
  id: string;
  group: TextKey;
  name: string;
  note?: string;
  icon: ReactNode;
  run: () => void;
}

const MAX_HITS = 12;
const quick: PowerAction[] = ['start', 'stop', 'restart'];

/** Ctrl/⌘-K: every page, server and action by name. */
export default function Palette({ org, tenants, onClose }: { org: string; tenants: Tenant[]; onClose: () => void }) {
  const [query, setQuery] = useState('');
  const [at, setAt] = useState(0);
  const listId = useId();
  const listRef = useRef<HTMLDivElement>(null);
  const hits = rank(useHits(org, tenants, useDeferredValue(query)), query, (h) => `${h.name} ${h.note ?? ''}`).slice(
    0,
    MAX_HITS,
  );
  const chosen = Math.min(at, hits.length - 1);
  useEffect(() => {
    listRef.current?.querySelector(`[data-index="${chosen}"]`)?.scrollIntoView({ block: 'nearest' });
  }, [chosen]);
  const run = (hit: Hit | undefined) => {
    if (!hit) return;
    onClose();
    hit.run();
  };
  const key = (e: React.KeyboardEvent) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (move && hits.length > 0) {
      e.preventDefault();
      setAt((chosen + move + hits.length) % hits.length);
    } else if (e.key === 'Enter') {
      e.preventDefault();
      run(hits[chosen]);
    }
  };
  return (
    <Modal
      opened
      onClose={onClose}
      withCloseButton={false}
      padding={0}
      size="lg"
      yOffset="12vh"
      centered={false}
      title={t('palette.title')}
      classNames={{ header: classes.hidden }}
    >
      <div className={classes.field}>
        <IconSearch size={19} aria-hidden="true" />
        <input
          data-autofocus
          role="combobox"
          aria-expanded="true"
          aria-controls={listId}
          aria-activedescendant={hits[chosen] ? `${listId}-${chosen}` : undefined}
          aria-autocomplete="list"
          aria-label={t('palette.placeholder')}
          placeholder={t('palette.placeholder')}
          value={query}
          onChange={(e) => {
            setQuery(e.currentTarget.value);
            setAt(0);
          }}
          onKeyDown={key}
        />
      </div>
      {/* What scrolls is reachable by keyboard. */}
      <div ref={listRef} className={classes.list} tabIndex={0}>
        <div role="listbox" id={listId} aria-label={t('palette.results')}>
          {hits.map((hit, i) => (
            <div
              key={hit.id}
              role="option"
              id={`${listId}-${i}`}
              data-index={i}
              aria-selected={i === chosen}
              className={classes.hit}
              onMouseMove={() => setAt(i)}
              onClick={() => run(hit)}
            >
              {hit.icon}
              <span>{hit.name}</span>
              <small>{hit.note ?? t(hit.group)}</small>
            </div>
          ))}
        </div>
        {hits.length === 0 && (
          <p className={classes.empty} role="status">
            {t('palette.empty', { query })}
          </p>
        )}
      </div>
      <p className={classes.hint}>{t('palette.hint')}</p>
    </Modal>
  );
}

/** The servers that may be meant: the first page of all, and where that is not all of them, what the last word finds. */
function useServers(org: string, query: string): Server[] {
  const first = useQuery(serversQuery(org, {})).data;
  const word = query.trim().split(/\s+/).at(-1) ?? '';
  const more = first !== undefined && first.total > first.items.length && word.length > 1;
  const found = useQuery({ ...serversQuery(org, { search: word }), enabled: more }).data;
  const all = [...(first?.items ?? []), ...(more ? (found?.items ?? []) : [])];
  return [...new Map(all.map((s) => [s.id, s])).values()];
}

function useHits(org: string, tenants: Tenant[], query: string): Hit[] {
  const navigate = useNavigate();
  const client = useQueryClient();
  const signOut = useSignOut();
  const servers = useServers(org, query);
  const may = usePermissions(org);
  const page = (id: string, name: string, icon: ReactNode, run: () => void): Hit => ({
    id,
    group: 'palette.pages',
    name,
    icon,
    run,
  });
  const hits: Hit[] = [
    page(
      'servers',
      t('frame.servers'),
      <IconServer2 key="i" size={18} />,
      () => void navigate({ to: '/o/$org/servers', params: { org } }),
    ),
  ];
  if (may.can('server.create')) {
    hits.push(
      page(
        'new',
        t('servers.new'),
        <IconPlus key="i" size={18} />,
        () => void navigate({ to: '/o/$org/servers/new', params: { org } }),
      ),
    );
  }
  if (may.can('tenant.read')) {
    const to = (id: string, name: string, icon: ReactNode, path: '' | '/members' | '/roles') =>
      page(id, name, icon, () => void navigate({ to: `/o/$org/settings${path}`, params: { org } }));
    hits.push(
      to('settings', t('palette.settings'), <IconSettings key="i" size={18} />, ''),
      to('members', t('org.members'), <IconUsers key="i" size={18} />, '/members'),
      to('roles', t('org.roles'), <IconShieldHalf key="i" size={18} />, '/roles'),
    );
  }
  for (const s of servers) {
    const params = { org, server: s.id };
    const hit = (id: string, group: TextKey, name: string, icon: ReactNode, run: () => void, note?: string) =>
      hits.push({ id: `${s.id}-${id}`, group, name, icon, run, note });
    hit(
      'open',
      'palette.servers',
      s.name,
      <IconServer2 key="i" size={18} />,
      () => void navigate({ to: '/o/$org/servers/$server', params }),
      statusWord(s),
    );
    if (may.can('console.read')) {
      hit(
        'console',
        'palette.servers',
        t('palette.console', { name: s.name }),
        <IconTerminal2 key="i" size={18} />,
        () => void navigate({ to: '/o/$org/servers/$server/console', params }),
      );
    }
    if (may.can('member.update')) {
      hit(
        'access',
        'palette.servers',
        t('palette.access', { name: s.name }),
        <IconUsers key="i" size={18} />,
        () => void navigate({ to: '/o/$org/servers/$server/access', params }),
      );
    }
    for (const action of quick.filter((a) => may.actions(s).includes(a))) {
      hit(action, 'palette.actions', `${t(`action.${action}`)} ${s.name}`, <IconPower key="i" size={18} />, () => {
        powerServer(client, org, s.id, action).then(
          () => toastDone(t(`server.done.${action}`, { name: s.name })),
          toastError,
        );
      });
    }
  }
  hits.push(
    page(
      'account',
      t('frame.account'),
      <IconUserCircle key="i" size={18} />,
      () => void navigate({ to: '/o/$org/account', params: { org } }),
    ),
    page(
      'notices',
      t('notices.title'),
      <IconBell key="i" size={18} />,
      () => void navigate({ to: '/o/$org/notices', params: { org } }),
    ),
  );
  const part = (
    name: TextKey,
    of: 'settings' | 'account',
    path: 'keys' | 'audit' | 'danger' | 'security' | 'notices',
  ) =>
    hits.push({
      id: `${of}-${path}`,
      group: 'palette.pages',
      name: t(name),
      note: t(`frame.${of}`),
      icon: of === 'settings' ? <IconSettings key="i" size={18} /> : <IconUserCircle key="i" size={18} />,
      run: () => void navigate({ to: `/o/$org/${of}/${path}` as '/o/$org/settings/keys', params: { org } }),
    });
  if (may.can('key.manage')) part('keys.title', 'settings', 'keys');
  if (may.can('audit.read')) part('audit.title', 'settings', 'audit');
  if (may.can('tenant.read')) part('org.danger', 'settings', 'danger');
  part('account.security', 'account', 'security');
  part('account.notices', 'account', 'notices');
  part('account.keys', 'account', 'keys');
  for (const one of tenants.filter((x) => x.slug !== org)) {
    hits.push({
      id: one.id,
      group: 'palette.actions',
      name: t('palette.switchTo', { name: one.name }),
      icon: <IconBuilding key="i" size={18} />,
      run: () => {
        rememberTenant(one.slug);
        void navigate({ to: '/o/$org/servers', params: { org: one.slug } });
      },
    });
  }
  hits.push(
    page(
      'organisation',
      t('frame.newOrganisation'),
      <IconBuilding key="i" size={18} />,
      () => void navigate({ to: '/welcome' }),
    ),
  );
  hits.push({
    id: 'out',
    group: 'palette.actions',
    name: t('action.signOut'),
    icon: <IconLogout key="i" size={18} />,
    run: signOut,
  });
  return hits;
}
