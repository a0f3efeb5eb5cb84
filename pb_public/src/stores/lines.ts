// What a console has shown so far: a bounded list of lines and of the gaps between them.

export interface ConsoleLine {
  seq: number;
  at: string;
  stream: 'out' | 'install' | 'system' | 'input';
  text: string;
}

export interface Line extends ConsoleLine {
  kind: 'line';
}

export interface Gap {
  kind: 'gap';
  from: number;
  /** 0: not known how far it goes. */
  to: number;
}

export type Entry = Line | Gap;

/** The most entries kept in the window; older ones go first. */
export const MAX_ENTRIES = 5000;

// Control sequences but colours (SGR, "ESC [ … m"): games move the cursor and set titles, which would
// garble a log. OSC up to its end, CSI, and two-character escapes; then C0 controls but tab and ESC.
const noise =
  /\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\|$)|\u001b\[(?![\d;:]*m)[0-?]*[ -/]*(?:[@-~]|$)|\u001b(?!\[)[ -/]*[0-~]?|[\u0000-\u0008\u000b-\u001a\u001c-\u001f\u007f-\u009f]|\r/g;
const colours = /\u001b\[[\d;:]*m/g;

/** The line without cursor movements, titles and other control sequences; colours stay. */
export const clean = (text: string): string => text.replace(noise, '').replace(/^> (?=.)/, '');

/** The line as plain text. */
export const plain = (text: string): string => clean(text).replace(colours, '');

/** Lines in order of seq, each once. Mutable on purpose: thousands of lines come in a second. */
export class Lines {
  private list: Entry[] = [];
  private newest = 0;
  /** Whether entries were dropped at the old end. */
  trimmed = false;

  constructor(private max = MAX_ENTRIES) {}

  get entries(): readonly Entry[] {
    return this.list;
  }

  /** Sequence of the newest line or gap; what ?after= asks from. */
  get last(): number {
    return this.newest;
  }

  get count(): number {
    return this.list.reduce((n, e) => n + (e.kind === 'line' ? 1 : 0), 0);
  }

  /** Adds what came, and returns what was new of it, with holes in the sequence as gaps. */
  add(lines: ConsoleLine[]): Entry[] {
    const fresh: Entry[] = [];
    for (const line of lines) {
      if (line.seq <= this.newest) continue; // sent twice: around a reconnect this is normal
      if (this.newest > 0 && line.seq > this.newest + 1)
        fresh.push({ kind: 'gap', from: this.newest + 1, to: line.seq - 1 });
      fresh.push({ ...line, kind: 'line', text: clean(line.text) });
      this.newest = line.seq;
    }
    return this.append(fresh);
  }

  /** Adds a gap the node told of. What is not missing for this window is cut off it. */
  addGap(from: number, to: number): Entry[] {
    const start = Math.max(from, this.newest + 1);
    if (to !== 0 && to < start) return [];
    if (to !== 0) this.newest = to;
    return this.append([{ kind: 'gap', from: start, to }]);
  }

  /** Everything as plain text, one line each, times first. `missing` writes a gap. */
  text(missing: (gap: Gap) => string): string {
    return this.list.map((e) => (e.kind === 'gap' ? `--- ${missing(e)} ---` : `${e.at} ${plain(e.text)}`)).join('\n');
  }

  private append(fresh: Entry[]): Entry[] {
    this.list.push(...fresh);
    if (this.list.length > this.max) {
      this.list = this.list.slice(-this.max);
      this.trimmed = true;
    }
    return fresh;
  }
}
