// One console connection: token, socket, reconnect from the last line seen.

import { request } from '@/api/client';
import { type ApiError, asApiError } from '@/api/error';
import { type ConsoleLine, type Entry, Lines } from './lines';

/** How a console stands. */
export type Link =
  | { kind: 'connecting' }
  | { kind: 'history' } // lines of the past come in
  | { kind: 'live' }
  | { kind: 'lost'; since: number } // tries again by itself
  | { kind: 'refused'; error: ApiError }; // trying again would not help

interface Frame {
  lines?: ConsoleLine[];
  gap?: { from: number; to: number };
  state?: string;
  error?: { code: string; message: string };
  live?: boolean;
}

/** The part of WebSocket that is used; tests bring their own. */
export interface Socket {
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
  send(data: string): void;
  close(): void;
}

export interface ConsoleDeps {
  token(): Promise<string>;
  dial(url: string, protocols: string[]): Socket;
}

const RETRY_MIN_MS = 1000;
const RETRY_MAX_MS = 15_000;

/** The panel as it is. */
export function panelConsole(org: string, server: string): ConsoleDeps {
  return {
    token: async () =>
      (await request<{ token: string }>(`servers/${server}/console/token`, { method: 'POST', org, body: {} })).token,
    dial: (url, protocols) => new WebSocket(url, protocols) as unknown as Socket,
  };
}

/** Owns one socket and one timer at most. `stop` ends both. */
export class ConsoleLink {
  readonly lines = new Lines();
  private link: Link = { kind: 'connecting' };
  private socket: Socket | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private tries = 0;
  private lostAt = 0;
  private stopped = false;
  private watchers = new Set<() => void>();
  private readers = new Set<(fresh: Entry[]) => void>();
  private faults = new Set<(message: string) => void>();

  constructor(
    private server: string,
    private deps: ConsoleDeps,
  ) {}

  start(): void {
    this.stopped = false;
    void this.connect();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.drop();
  }

  snapshot = (): Link => this.link;

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** Calls back with each batch of new entries. What came before is in `lines`. */
  read(reader: (fresh: Entry[]) => void): () => void {
    this.readers.add(reader);
    return () => this.readers.delete(reader);
  }

  /** Calls back with the sentence when something typed could not be delivered. */
  onFault(fault: (message: string) => void): () => void {
    this.faults.add(fault);
    return () => this.faults.delete(fault);
  }

  /** Sends one command. False when there is no connection: it was not sent, and is not kept for later. */
  send(command: string): boolean {
    if (!this.socket || (this.link.kind !== 'live' && this.link.kind !== 'history')) return false;
    this.socket.send(JSON.stringify({ command }));
    return true;
  }

  /** Tries again now instead of when the timer says so. */
  retryNow(): void {
    if (this.link.kind !== 'lost' && this.link.kind !== 'refused') return;
    clearTimeout(this.timer);
    void this.connect();
  }

  private async connect(): Promise<void> {
    let token: string;
    try {
      token = await this.deps.token();
    } catch (cause) {
      if (this.stopped) return;
      const error = asApiError(cause);
      if (error.retryable || error.status === 500) this.lost();
      else this.set({ kind: 'refused', error });
      return;
    }
    if (this.stopped) return;
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const url = `${scheme}://${location.host}/api/v1/servers/${this.server}/console/ws?after=${this.lines.last}`;
    const socket = this.deps.dial(url, ['mamba.v1', `bearer.${token}`]);
    this.socket = socket;
    socket.onopen = () => this.set({ kind: 'history' });
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = () => {
      if (this.socket === socket) this.lost();
    };
  }

  private receive(data: unknown): void {
    let frame: Frame;
    try {
      frame = JSON.parse(String(data)) as Frame;
    } catch {
      return; // a frame of a version we do not know; the sequence shows what it held as a gap
    }
    if (frame.lines) this.tell(this.lines.add(frame.lines));
    if (frame.gap) this.tell(this.lines.addGap(frame.gap.from, frame.gap.to));
    if (frame.error) for (const fault of this.faults) fault(frame.error.message);
    if (frame.live) {
      this.tries = 0;
      this.lostAt = 0;
      this.set({ kind: 'live' });
    }
  }

  private tell(fresh: Entry[]): void {
    if (fresh.length > 0) for (const reader of this.readers) reader(fresh);
  }

  private lost(): void {
    this.drop();
    if (this.stopped) return;
    this.lostAt ||= Date.now();
    this.set({ kind: 'lost', since: this.lostAt });
    this.timer = setTimeout(() => void this.connect(), Math.min(RETRY_MIN_MS * 2 ** this.tries, RETRY_MAX_MS));
    this.tries++;
  }

  private drop(): void {
    const socket = this.socket;
    this.socket = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  private set(next: Link): void {
    this.link = next;
    for (const watcher of this.watchers) watcher();
  }
}
