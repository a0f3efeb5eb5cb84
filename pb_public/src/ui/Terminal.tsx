// The console as a terminal. A chunk of its own: xterm is large.
import '@xterm/xterm/css/xterm.css';
import { FitAddon } from '@xterm/addon-fit';
import { SearchAddon } from '@xterm/addon-search';
import { Terminal as Xterm } from '@xterm/xterm';
import { type Ref, useEffect, useImperativeHandle, useRef } from 'react';
import type { ConsoleLink } from '@/stores/console';
import { type Entry, MAX_ENTRIES, plain } from '@/stores/lines';
import { t } from '@/texts';
import { clock } from './format';
import { gapText } from './gapText';
import classes from './Terminal.module.css';

export interface TerminalHandle {
  find(query: string, back: boolean): void;
  toEnd(): void;
}

interface Props {
  ref?: Ref<TerminalHandle>;
  link: ConsoleLink;
  timestamps: boolean;
  wrap: boolean;
  /** Only lines that hold this; "" for all. */
  filter: string;
  /** How many lines came while scrolled up; null while at the end. */
  onPaused: (lines: number | null) => void;
  onMatches: (found: { index: number; count: number }) => void;
  /** How many lines are drawn: all, or those that the filter lets through. */
  onShown: (lines: number) => void;
}

// Dark in both themes: games choose their colours for a dark ground. Each is 4.5:1 or more on it.
const palette = {
  background: '#0d1215',
  foreground: '#d5dde2',
  cursor: '#0d1215',
  selectionBackground: '#2f5c49',
  black: '#7d8a94',
  red: '#ff8178',
  green: '#6fd6a0',
  yellow: '#f0c674',
  blue: '#8ab4ff',
  magenta: '#d7a6ff',
  cyan: '#78d5e3',
  white: '#d5dde2',
  brightBlack: '#8d9aa4',
  brightRed: '#ffa39c',
  brightGreen: '#98e6bd',
  brightYellow: '#ffdd9c',
  brightBlue: '#b1cdff',
  brightMagenta: '#e6c8ff',
  brightCyan: '#a8e8f2',
  brightWhite: '#ffffff',
};
const MAX_COLUMNS = 1000;
const matchColours = {
  matchBackground: '#5b4a12',
  activeMatchBackground: '#a07a10',
  matchOverviewRuler: '#a07a10',
  activeMatchColorOverviewRuler: '#f0c674',
};

function draw(entry: Entry, timestamps: boolean): string {
  if (entry.kind === 'gap') return `\x1b[33m─── ${gapText(entry)} ───\x1b[0m`;
  const time = timestamps ? `\x1b[90m${clock(entry.at)}\x1b[39m ` : '';
  const mark = { out: '', install: '', system: '\x1b[36m● ', input: '\x1b[32m› ' }[entry.stream] ?? '';
  return `${time}${mark}${entry.text}\x1b[0m`;
}

/** Owns one xterm: what it shows, how wide it is, where it stands. */
class View {
  readonly term = new Xterm({
    disableStdin: true,
    scrollback: MAX_ENTRIES * 2, // wrapped lines take several rows
    fontFamily: "'JetBrains Mono Variable', ui-monospace, monospace",
    fontSize: 13,
    lineHeight: 1.4,
    theme: palette,
    cursorStyle: 'bar',
    cursorInactiveStyle: 'none',
    allowProposedApi: true, // the search addon's highlights
  });
  readonly search = new SearchAddon();
  private fit = new FitAddon();
  private queue: Entry[] = [];
  private frame = 0;
  private empty = true;
  private longest = 0;
  private missed = 0;
  private shown = 0;
  private checks = 0;

  constructor(
    host: HTMLElement,
    private props: { current: Props },
  ) {
    const { term } = this;
    term.loadAddon(this.fit);
    term.loadAddon(this.search);
    term.open(host);
    term.attachCustomKeyEventHandler(() => false); // keys belong to the page: copy, tab, the frame below
    if (term.textarea) {
      term.textarea.tabIndex = -1;
      term.textarea.setAttribute('aria-hidden', 'true');
    }
    term.onScroll(() => this.check());
    this.search.onDidChangeResults((r) =>
      this.props.current.onMatches({ index: r.resultIndex + 1, count: r.resultCount }),
    );
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.checks);
    this.term.dispose();
  }

  /** Draws everything again: after a toggle, a filter, a new link. */
  redraw(): void {
    this.queue = [];
    this.term.reset();
    this.term.write('\x1b[?25l');
    this.empty = true;
    this.longest = 0;
    this.shown = 0;
    this.props.current.onShown(0);
    const { link } = this.props.current;
    if (link.lines.trimmed) this.put(`\x1b[33m─── ${t('console.trimmed')} ───\x1b[0m`);
    this.add(link.lines.entries);
  }

  add(entries: readonly Entry[]): void {
    this.queue.push(...entries);
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.flush());
  }

  private flush(): void {
    this.frame = 0;
    const { filter, timestamps } = this.props.current;
    const needle = filter.toLowerCase();
    const shown = this.queue.filter(
      (e) => needle === '' || (e.kind === 'line' && plain(e.text).toLowerCase().includes(needle)),
    );
    this.queue = [];
    if (shown.length === 0) return;
    this.shown += shown.length;
    this.props.current.onShown(this.shown);
    if (this.away()) this.missed += shown.length;
    for (const e of shown) this.longest = Math.max(this.longest, e.kind === 'line' ? plain(e.text).length + 12 : 0);
    this.put(shown.map((e) => draw(e, timestamps)).join('\r\n'));
    if (!this.props.current.wrap) this.size();
  }

  private put(text: string): void {
    this.term.write(this.empty ? text : `\r\n${text}`, () => this.check());
    this.empty = false;
  }

  /** Fits rows and columns to the box; without wrapping, columns to the longest line. */
  size(): void {
    const fits = this.fit.proposeDimensions();
    if (!fits || !Number.isFinite(fits.cols) || fits.rows < 1) return;
    const cols = this.props.current.wrap ? fits.cols : Math.min(MAX_COLUMNS, Math.max(fits.cols, this.longest));
    if (cols !== this.term.cols || fits.rows !== this.term.rows) this.term.resize(cols, fits.rows);
  }

  private away(): boolean {
    const { viewportY, baseY } = this.term.buffer.active;
    return viewportY < baseY;
  }

  /** Tells whether one has scrolled up, once things have moved. */
  check(): void {
    cancelAnimationFrame(this.checks);
    this.checks = requestAnimationFrame(() => {
      if (!this.away()) this.missed = 0;
      this.props.current.onPaused(this.away() ? this.missed : null);
    });
  }

  key(e: React.KeyboardEvent): void {
    const page = this.term.rows - 1;
    const moves: Record<string, () => void> = {
      PageUp: () => this.term.scrollLines(-page),
      PageDown: () => this.term.scrollLines(page),
      ArrowUp: () => this.term.scrollLines(-1),
      ArrowDown: () => this.term.scrollLines(1),
      Home: () => this.term.scrollToTop(),
      End: () => this.term.scrollToBottom(),
    };
    const move = moves[e.key];
    if (!move || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    move();
    this.check();
  }

  find(query: string, back: boolean): void {
    if (query === '') {
      this.search.clearDecorations();
      return;
    }
    const options = { decorations: matchColours, incremental: false };
    if (back) this.search.findPrevious(query, options);
    else this.search.findNext(query, options);
    this.check();
  }
}

export default function Terminal(props: Props) {
  const { link, timestamps, wrap, filter, ref } = props;
  const box = useRef<HTMLDivElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const view = useRef<View | null>(null);
  useImperativeHandle(ref, () => ({
    find: (query, back) => view.current?.find(query, back),
    toEnd: () => {
      view.current?.term.scrollToBottom();
      view.current?.check();
    },
  }));
  useEffect(() => {
    if (!box.current) return;
    const one = new View(box.current, latest);
    view.current = one;
    const resize = new ResizeObserver(() => one.size());
    resize.observe(box.current);
    void document.fonts.ready.then(() => one.size());
    one.size();
    one.redraw();
    const stop = link.read((fresh) => one.add(fresh));
    return () => {
      stop();
      resize.disconnect();
      view.current = null;
      one.dispose();
    };
  }, [link]);
  const drawn = useRef('');
  useEffect(() => {
    const now = `${timestamps} ${wrap} ${filter}`;
    if (drawn.current !== '' && drawn.current !== now) {
      view.current?.size();
      view.current?.redraw();
    }
    drawn.current = now;
  }, [timestamps, wrap, filter]);
  const check = () => view.current?.check();
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for fields
    <div
      className={classes.frame}
      tabIndex={0}
      role="group"
      aria-label={t('console.region')}
      aria-description={t('console.terminalHint')}
      onKeyDown={(e) => view.current?.key(e)}
      onWheel={check}
      onPointerUp={check}
      onTouchEnd={check}
    >
      <div ref={box} className={classes.box} aria-hidden="true" data-wrap={wrap} />
    </div>
  );
}
