import { ActionIcon, Button, TextInput, Tooltip } from '@mantine/core';
import {
  IconArrowBarToDown,
  IconChevronDown,
  IconChevronUp,
  IconClock,
  IconCopy,
  IconDownload,
  IconFilter,
  IconSearch,
  IconTextWrap,
  IconVolume,
} from '@tabler/icons-react';
import { lazy, Suspense, useEffect, useRef, useState } from 'react';
import { copyText } from '@/actions/copyText';
import type { Server } from '@/api/views';
import type { ConsoleLink, Link } from '@/stores/console';
import { keep, kept } from '@/stores/kept';
import { takesCommands } from '@/stores/phase';
import { t } from '@/texts';
import { Ago } from './Ago';
import { CommandLine } from './CommandLine';
import classes from './ConsoleView.module.css';
import { gapText } from './gapText';
import { SpokenLog } from './SpokenLog';
import type { TerminalHandle } from './Terminal';
import { toastDone } from './toast';

const Terminal = lazy(() => import('./Terminal'));

/** A choice of how the console looks that this device remembers. */
function useChoice(name: string, preset: boolean): [boolean, () => void] {
  const [on, setOn] = useState(() => (kept(name) ?? String(preset)) === 'true');
  const toggle = () => {
    keep(name, String(!on));
    setOn(!on);
  };
  return [on, toggle];
}

/** The whole console: tools, output, what stands in its way, and the command line. */
export function ConsoleView({
  link,
  state,
  server,
  writable,
}: {
  link: ConsoleLink;
  state: Link;
  server: Server;
  writable: boolean;
}) {
  const [timestamps, toggleTimestamps] = useChoice('console.times', true);
  const [wrap, toggleWrap] = useChoice('console.wrap', true);
  const [speak, toggleSpeak] = useChoice('console.speak', false);
  const [query, setQuery] = useState('');
  const [filtering, setFiltering] = useState(false);
  const [matches, setMatches] = useState({ index: 0, count: 0 });
  const [paused, setPaused] = useState<number | null>(null);
  const [shown, setShown] = useState(0);
  const [blank, setBlank] = useState(link.lines.entries.length === 0);
  const terminal = useRef<TerminalHandle>(null);
  const search = useRef<HTMLInputElement>(null);
  useEffect(() => {
    setBlank(link.lines.entries.length === 0);
    return link.read(() => setBlank(false));
  }, [link]);
  const find = (text: string, back = false) => terminal.current?.find(filtering ? '' : text, back);
  const text = () => link.lines.text(gapText);
  const tool = (label: string, icon: React.ReactNode, onClick: () => void, pressed?: boolean) => (
    <Tooltip label={label}>
      <ActionIcon
        variant="subtle"
        color="gray"
        size={34}
        aria-label={label}
        aria-pressed={pressed}
        className={classes.tool}
        onClick={onClick}
      >
        {icon}
      </ActionIcon>
    </Tooltip>
  );
  return (
    <section className={classes.console} aria-label={t('console.title')}>
      <div className={classes.tools} role="toolbar" aria-label={t('console.title')}>
        <search className={classes.search}>
          <TextInput
            ref={search}
            size="sm"
            type="search"
            aria-label={t('console.search')}
            placeholder={t('console.searchPlaceholder')}
            leftSection={<IconSearch size={16} aria-hidden="true" />}
            value={query}
            onChange={(e) => {
              setQuery(e.currentTarget.value);
              find(e.currentTarget.value);
            }}
            onKeyDown={(e) => {
              if (e.key === 'Enter') find(query, e.shiftKey);
              if (e.key === 'Escape') {
                setQuery('');
                find('');
              }
            }}
          />
          {query !== '' && !filtering && (
            <>
              <span className={`${classes.matches} num`} role="status">
                {matches.count === 0
                  ? t('console.noMatches')
                  : t('console.matches', { index: matches.index, count: matches.count })}
              </span>
              {tool(t('console.previousMatch'), <IconChevronUp size={18} aria-hidden="true" />, () =>
                find(query, true),
              )}
              {tool(t('console.nextMatch'), <IconChevronDown size={18} aria-hidden="true" />, () => find(query))}
            </>
          )}
          {tool(
            t('console.filter'),
            <IconFilter size={18} aria-hidden="true" />,
            () => setFiltering(!filtering),
            filtering,
          )}
        </search>
        <div className={classes.group}>
          {tool(t('console.timestamps'), <IconClock size={18} aria-hidden="true" />, toggleTimestamps, timestamps)}
          {tool(t('console.wrap'), <IconTextWrap size={18} aria-hidden="true" />, toggleWrap, wrap)}
          {tool(t('console.speak'), <IconVolume size={18} aria-hidden="true" />, toggleSpeak, speak)}
          {tool(t('console.copy'), <IconCopy size={18} aria-hidden="true" />, async () => {
            if (await copyText(text())) toastDone(t('console.copied', { count: link.lines.count }));
          })}
          {tool(t('console.download'), <IconDownload size={18} aria-hidden="true" />, () =>
            save(text(), t('console.file', { name: server.name })),
          )}
        </div>
      </div>
      <Banner state={state} link={link} />
      <div className={classes.output}>
        <Suspense>
          <Terminal
            ref={terminal}
            link={link}
            timestamps={timestamps}
            wrap={wrap}
            filter={filtering ? query.trim() : ''}
            onPaused={setPaused}
            onMatches={setMatches}
            onShown={setShown}
          />
        </Suspense>
        {blank && state.kind !== 'lost' && (
          <p className={classes.blank}>
            {state.kind === 'connecting'
              ? t('console.connecting')
              : takesCommands(server)
                ? t('console.empty')
                : t('console.emptyOff')}
          </p>
        )}
        {!blank && filtering && query.trim() !== '' && shown === 0 && (
          <p className={classes.blank} role="status">
            {t('console.noLine', { query: query.trim() })}
          </p>
        )}
        {paused !== null && (
          <Button
            className={classes.jump}
            size="compact-sm"
            radius="xl"
            leftSection={<IconArrowBarToDown size={15} aria-hidden="true" />}
            onClick={() => terminal.current?.toEnd()}
          >
            {paused > 0 ? t('console.newLines', { count: paused }) : t('console.paused')}
          </Button>
        )}
      </div>
      <CommandLine link={link} state={state} server={server} writable={writable} />
      <SpokenLog link={link} speak={speak} />
    </section>
  );
}

function Banner({ state, link }: { state: Link; link: ConsoleLink }) {
  if (state.kind === 'lost') {
    return (
      <div className={classes.banner} role="status">
        <span>
          <Disconnected since={state.since} />
        </span>
        <Button size="compact-sm" variant="default" onClick={() => link.retryNow()}>
          {t('console.retryNow')}
        </Button>
      </div>
    );
  }
  if (state.kind === 'refused') {
    return (
      <div className={classes.banner} role="alert">
        <span>{state.error.message}</span>
        <Button size="compact-sm" variant="default" onClick={() => link.retryNow()}>
          {t('action.retry')}
        </Button>
      </div>
    );
  }
  return null;
}

function Disconnected({ since }: { since: number }) {
  const [before, after] = t('console.disconnected', { ago: '\u0000' }).split('\u0000');
  return (
    <>
      {before}
      <Ago at={since} />
      {after}
    </>
  );
}

function save(text: string, name: string): void {
  const url = URL.createObjectURL(new Blob([`${text}\n`], { type: 'text/plain;charset=utf-8' }));
  const a = document.createElement('a');
  a.href = url;
  a.download = name.replace(/[^\p{L}\p{N}._-]+/gu, '-');
  a.click();
  URL.revokeObjectURL(url);
}
