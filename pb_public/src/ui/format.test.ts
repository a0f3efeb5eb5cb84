import { describe, expect, it } from 'vitest';
import { ago, clock, cores, exact, gib, mib, parseTime, sizeLine, span } from './format';

const now = Date.parse('2026-11-22T12:00:00Z');

describe('sizes', () => {
  it.each([
    [64, '64 MiB'],
    [1023, '1,023 MiB'],
    [1024, '1 GiB'],
    [1536, '1.5 GiB'],
    [524_288, '512 GiB'],
  ])('%i MiB are %s', (n, text) => expect(mib(n)).toBe(text));
  it('says one core, and more or less of it as cores', () => {
    expect(cores(1000)).toBe('1 core');
    expect(cores(250)).toBe('0.25 cores');
    expect(cores(1500)).toBe('1.5 cores');
  });
  it('puts a size into one line', () =>
    expect(sizeLine({ memory_mib: 4096, cpu_millicores: 2000, disk_gib: 10 })).toBe(
      '4 GiB memory · 2 cores · 10 GiB disk',
    ));
  it('rounds what is not whole', () => expect(gib(9.96)).toBe('10 GiB'));
});

describe('times', () => {
  it('reads the panel’s and PocketBase’s form alike', () => {
    expect(parseTime('2026-11-22 12:00:00.000Z')).toBe(now);
    expect(parseTime('2026-11-22T12:00:00Z')).toBe(now);
  });
  it.each([
    ['2026-11-22T11:59:30Z', 'just now'],
    ['2026-11-22T11:58:00Z', '2 minutes ago'],
    ['2026-11-22T09:00:00Z', '3 hours ago'],
    ['2026-11-21T11:00:00Z', 'yesterday'],
    ['2025-11-01T12:00:00Z', 'last year'],
    ['2026-11-22T12:05:00Z', 'in 5 minutes'],
  ])('%s was %s', (at, text) => expect(ago(at, now)).toBe(text));
  it.each([
    ['2026-11-22T11:59:59Z', 'a moment'],
    ['2026-11-22T11:57:59Z', '2 min'],
    ['2026-11-22T07:00:01Z', '4 h'],
    ['2026-11-19T11:00:00Z', '3 d'],
    ['2026-11-23T12:00:00Z', 'a moment'], // a clock that is ahead of ours
  ])('since %s it is %s', (at, text) => expect(span(at, now)).toBe(text));
  it('shows nothing for what is no time, and never NaN', () => {
    for (const none of ['', 'soon', '0000-00-00 00:00:00']) {
      expect(ago(none, now)).toBe('');
      expect(exact(none)).toBe('');
      expect(clock(none)).toBe('--:--:--');
    }
  });
  it('shows the clock of a console line in two digits each', () =>
    expect(clock('2026-11-22T03:04:05Z')).toMatch(/^\d\d:04:05$/));
});
