import { beforeEach, describe, expect, it, vi } from 'vitest';
import { ApiError } from '@/api/error';
import { ConsoleLink, type Socket } from './console';
import { CommandHistory } from './history';
import { type ConsoleLine, clean, type Entry, Lines, plain } from './lines';

const line = (seq: number, text = `line ${seq}`): ConsoleLine => ({
  seq,
  at: '2026-11-22T10:00:00Z',
  stream: 'out',
  text,
});
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => line(from + i));
const shape = (entries: readonly Entry[]) => entries.map((e) => (e.kind === 'line' ? e.seq : `${e.from}-${e.to}`));

describe('Lines', () => {
  it('shows each line once, however often it is sent', () => {
    const lines = new Lines();
    lines.add(range(1, 3));
    expect(shape(lines.add(range(2, 5)))).toEqual([4, 5]);
    expect(shape(lines.entries)).toEqual([1, 2, 3, 4, 5]);
    expect(lines.last).toBe(5);
  });
  it('shows a hole in the sequence as a gap, but not the one before the first line', () => {
    const lines = new Lines();
    lines.add([line(40)]);
    expect(shape(lines.add([line(41), line(45)]))).toEqual([41, '42-44', 45]);
  });
  it('shows a gap that the node tells of, less what is here already', () => {
    const lines = new Lines();
    lines.add(range(1, 5));
    expect(shape(lines.addGap(3, 9))).toEqual(['6-9']);
    expect(shape(lines.addGap(3, 9))).toEqual([]);
    expect(shape(lines.add([line(10)]))).toEqual([10]);
    expect(shape(lines.addGap(11, 0))).toEqual(['11-0']);
  });
  it('keeps the newest of too many and says that it did', () => {
    const lines = new Lines(100);
    lines.add(range(1, 100));
    expect(lines.trimmed).toBe(false);
    lines.add(range(101, 150));
    expect(lines.trimmed).toBe(true);
    expect(lines.entries).toHaveLength(100);
    expect(shape(lines.entries)[0]).toBe(51);
  });
  it('gives everything as text, gaps in their place', () => {
    const lines = new Lines();
    lines.add([line(1, '\u001b[32mgreen\u001b[0m'), line(4, 'four')]);
    expect(lines.text((g) => `${g.from}..${g.to}`)).toBe(
      '2026-11-22T10:00:00Z green\n--- 2..3 ---\n2026-11-22T10:00:00Z four',
    );
    expect(lines.count).toBe(2);
  });
});

describe('clean', () => {
  it.each([
    ['colours stay', '\u001b[1;31mred\u001b[0m', '\u001b[1;31mred\u001b[0m'],
    ['cursor moves and prompts of flying-squid go', '\u001b[1G> said hello', 'said hello'],
    ['erasing goes', '\u001b[2K\u001b[0Gtext\r', 'text'],
    ['titles go', '\u001b]0;a title\u0007text', 'text'],
    ['a link keeps its text', '\u001b]8;;http://x\u001b\\text\u001b]8;;\u001b\\', 'text'],
    ['an unfinished sequence goes', 'text\u001b[12', 'text'],
    ['bells and nulls go', 'a\u0007b\u0000c', 'abc'],
    ['tabs stay', 'a\tb', 'a\tb'],
    ['a quote that begins with an angle stays whole', '<ana> hi', '<ana> hi'],
    ['a charset choice goes', '\u001b(Btext', 'text'],
  ])('%s', (_, given, wanted) => expect(clean(given)).toBe(wanted));
  it('plain has no colours either', () => expect(plain('\u001b[38;5;12mx\u001b[m')).toBe('x'));
});

describe('CommandHistory', () => {
  it('walks back and forth, and ends at what was being typed', () => {
    const h = new CommandHistory();
    h.push('one');
    h.push('two');
    h.push('two');
    expect(h.older('draft')).toBe('two');
    expect(h.older('two')).toBe('one');
    expect(h.older('one')).toBe('one');
    expect(h.newer('one')).toBe('two');
    expect(h.newer('two')).toBe('draft');
    expect(h.newer('draft')).toBe('draft');
  });
  it('keeps a hundred', () => {
    const h = new CommandHistory();
    for (let i = 0; i < 150; i++) h.push(`c${i}`);
    let last = '';
    for (let i = 0; i < 200; i++) last = h.older('');
    expect(last).toBe('c50');
  });
});

class FakeSocket implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  sent: string[] = [];
  closed = false;
  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {}
  send(data: string) {
    this.sent.push(data);
  }
  close() {
    this.closed = true;
  }
  say(frame: object) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
}

describe('ConsoleLink', () => {
  let sockets: FakeSocket[];
  let token: () => Promise<string>;
  const make = () =>
    new ConsoleLink('srv', {
      token: () => token(),
      dial: (url, protocols) => {
        const s = new FakeSocket(url, protocols);
        sockets.push(s);
        return s;
      },
    });
  const socket = (i: number) => sockets[i] as FakeSocket;
  beforeEach(() => {
    vi.useFakeTimers();
    sockets = [];
    token = async () => 'tok';
  });

  it('brings the token as a subprotocol, never in the address', async () => {
    const link = make();
    link.start();
    await vi.advanceTimersByTimeAsync(0);
    expect(socket(0).protocols).toEqual(['mamba.v1', 'bearer.tok']);
    expect(socket(0).url).toBe(`ws://${location.host}/api/v1/servers/srv/console/ws?after=0`);
    link.stop();
  });
  it('shows history, then is live, and sends commands', async () => {
    const link = make();
    const seen: Entry[] = [];
    link.read((fresh) => seen.push(...fresh));
    link.start();
    await vi.advanceTimersByTimeAsync(0);
    expect(link.send('early')).toBe(false);
    socket(0).onopen?.();
    socket(0).say({ lines: range(1, 2) });
    expect(link.snapshot().kind).toBe('history');
    socket(0).say({ live: true });
    expect(link.snapshot().kind).toBe('live');
    expect(link.send('say hello')).toBe(true);
    expect(socket(0).sent).toEqual(['{"command":"say hello"}']);
    socket(0).onmessage?.({ data: 'not json' });
    expect(shape(seen)).toEqual([1, 2]);
    link.stop();
    expect(socket(0).closed).toBe(true);
  });
  it('goes on after the last line when the connection is lost', async () => {
    const link = make();
    link.start();
    await vi.advanceTimersByTimeAsync(0);
    socket(0).onopen?.();
    socket(0).say({ lines: range(1, 7) });
    socket(0).say({ live: true });
    socket(0).onclose?.();
    expect(link.snapshot().kind).toBe('lost');
    expect(link.send('x')).toBe(false);
    await vi.advanceTimersByTimeAsync(1000);
    expect(socket(1).url).toContain('after=7');
    socket(1).onopen?.();
    socket(1).say({ lines: range(7, 8) });
    expect(shape(link.lines.entries)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    link.stop();
  });
  it('waits longer each time, within a bound, and keeps saying since when', async () => {
    const link = make();
    link.start();
    await vi.advanceTimersByTimeAsync(0);
    socket(0).onclose?.();
    const since = link.snapshot();
    const waits: number[] = [];
    for (let i = 1; i < 7; i++) {
      let waited = 0;
      while (sockets.length === i) {
        await vi.advanceTimersByTimeAsync(500);
        waited += 500;
      }
      waits.push(waited);
      socket(i).onclose?.();
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 15_000, 15_000]);
    expect(link.snapshot()).toEqual(since);
    link.retryNow();
    await vi.advanceTimersByTimeAsync(0);
    expect(sockets).toHaveLength(8);
    link.stop();
    expect(vi.getTimerCount()).toBe(0);
  });
  it('does not try again by itself when it is refused', async () => {
    token = async () => {
      throw new ApiError(403, 'forbidden', 'Your role does not include the console.');
    };
    const link = make();
    link.start();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(0);
    expect(link.snapshot()).toMatchObject({ kind: 'refused', error: { status: 403 } });
    token = async () => 'tok';
    link.retryNow();
    await vi.advanceTimersByTimeAsync(0);
    expect(sockets).toHaveLength(1);
    link.stop();
  });
  it('tries again when only the panel was away', async () => {
    token = async () => {
      throw new ApiError(0, 'network', 'away');
    };
    const link = make();
    link.start();
    await vi.advanceTimersByTimeAsync(0);
    expect(link.snapshot().kind).toBe('lost');
    token = async () => 'tok';
    await vi.advanceTimersByTimeAsync(1000);
    expect(sockets).toHaveLength(1);
    link.stop();
  });
  it('says why something typed was not delivered', async () => {
    const link = make();
    const faults: string[] = [];
    link.onFault((m) => faults.push(m));
    link.start();
    await vi.advanceTimersByTimeAsync(0);
    socket(0).say({ error: { code: 'not_running', message: 'The game does not run.' } });
    expect(faults).toEqual(['The game does not run.']);
    link.stop();
  });
  it('opens nothing after it was stopped', async () => {
    const link = make();
    link.start();
    link.stop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(0);
  });
});
