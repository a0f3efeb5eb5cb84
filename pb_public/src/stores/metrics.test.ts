import { describe, expect, it } from 'vitest';
import { someMetrics } from '@/testing';
import { isLive, latest, measuredAt, newest, peak, ran, times, untilNext } from './metrics';

describe('the newest values', () => {
  it('are those of the newest step of which something is known', () => {
    const m = someMetrics({ cpu_millicores: [100, 250, null, null], running_ms: [30_000, 30_000, null, null] });
    expect(newest(m)).toBe(1);
    expect(latest(m, m.cpu_millicores)).toBe(250);
    expect(ran(m)).toBe(true);
  });

  it('are not known when that step was not measured, whatever came before it', () => {
    const m = someMetrics({ cpu_millicores: [100, null], running_ms: [30_000, 30_000] });
    expect(latest(m, m.cpu_millicores)).toBeNull();
  });

  it('are none when nothing was ever measured', () => {
    const m = someMetrics({ running_ms: [null, null] });
    expect(newest(m)).toBe(-1);
    expect(measuredAt(m)).toBe(0);
    expect(isLive(m)).toBe(false);
    expect(ran(m)).toBe(false);
  });

  it('are the present ones for two and a half minutes, or two steps', () => {
    const m = someMetrics({ from_unix_s: 1000, step_s: 30, now_unix_s: 1190, running_ms: [0, 0, null] });
    expect(measuredAt(m)).toBe(1060);
    expect(isLive(m)).toBe(true);
    expect(isLive({ ...m, now_unix_s: 1211 })).toBe(false);
    expect(isLive({ ...m, step_s: 300, now_unix_s: 2200 })).toBe(true);
  });

  it('never lie in the future: the last step of a day is still open', () => {
    const m = someMetrics({ from_unix_s: 1000, step_s: 300, now_unix_s: 1100, running_ms: [30_000] });
    expect(measuredAt(m)).toBe(1100);
  });
});

describe('when to ask again', () => {
  const at = (now: number) => someMetrics({ now_unix_s: now });

  it('is eight seconds after the window ends, by the clock of the panel', () => {
    expect(untilNext(at(600), 5_000, 5_000)).toBe(8_000);
    expect(untilNext(at(607), 5_000, 5_000)).toBe(2_000); // not twice at once
    expect(untilNext(at(608), 5_000, 5_000)).toBe(30_000);
    expect(untilNext(at(620), 5_000, 5_000)).toBe(18_000);
    expect(untilNext(at(600), 5_000, 15_000)).toBe(28_000); // ten seconds after the answer
  });

  it('is once a window when nothing was answered yet', () => {
    expect(untilNext(undefined, 0, 5)).toBe(30_000);
  });
});

it('peaks and times leave out what is not known', () => {
  const m = someMetrics({ from_unix_s: 1000, step_s: 30, running_ms: [null, 5] });
  expect(peak([null, 3, null, 7, 1])).toBe(7);
  expect(peak([null])).toBe(0);
  expect(times(m)).toEqual([1015, 1045]);
});
