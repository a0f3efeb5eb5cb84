// Numbers, sizes and times as people read them, in the viewer's zone and language.
import { locale, t } from '@/texts';

const short = (n: number, digits = 1) => new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(n);

/** 512 → "512 MiB", 4096 → "4 GiB". */
export const mib = (n: number): string => (n < 1024 ? t('unit.mib', { n: short(n, 0) }) : gib(n / 1024));

export const gib = (n: number): string => t('unit.gib', { n: short(n) });

/** Bytes in the largest unit that leaves at least 1: 1536 → "1.5 KiB". */
export function bytes(n: number): string {
  if (n < 1024) return t('unit.bytes', { n: short(n, 0) });
  if (n < 1024 ** 2) return t('unit.kib', { n: short(n / 1024) });
  if (n < 1024 ** 3) return t('unit.mib', { n: short(n / 1024 ** 2) });
  return gib(n / 1024 ** 3);
}

export const rate = (n: number): string => t('unit.perS', { size: bytes(n) });

/** 1500 → "1.5 cores". */
export function cores(millicores: number): string {
  const n = millicores / 1000;
  return t('unit.core', { n: short(n, 2), count: n });
}

export const sizeLine = (l: { memory_mib: number; cpu_millicores: number; disk_gib: number }): string =>
  t('unit.sizeLine', { memory: mib(l.memory_mib), cpu: cores(l.cpu_millicores), disk: gib(l.disk_gib) });

/** PocketBase writes "2026-11-22 10:00:00.000Z"; RFC 3339 has a T. NaN for what is no time. */
export const parseTime = (at: string): number => Date.parse(at.replace(' ', 'T'));

const steps: [Intl.RelativeTimeFormatUnit, number][] = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];

/** "3 minutes ago". "" for what is no time. */
export function ago(at: string | number, now = Date.now()): string {
  const then = typeof at === 'number' ? at : parseTime(at);
  if (Number.isNaN(then)) return '';
  const seconds = Math.round((then - now) / 1000);
  for (const [unit, size] of steps) {
    if (Math.abs(seconds) >= size) {
      return new Intl.RelativeTimeFormat(locale(), { numeric: 'auto' }).format(Math.trunc(seconds / size), unit);
    }
  }
  return t('unit.justNow');
}

/** How long since, in its largest unit: "2 h". */
export function span(at: string, now = Date.now()): string {
  const seconds = Math.max(0, Math.floor((now - parseTime(at)) / 1000));
  if (seconds >= 86_400) return t('unit.day', { n: Math.floor(seconds / 86_400) });
  if (seconds >= 3600) return t('unit.hour', { n: Math.floor(seconds / 3600) });
  if (seconds >= 60) return t('unit.minute', { n: Math.floor(seconds / 60) });
  return t('unit.moment');
}

/** The exact time, for hovering. */
export function exact(at: string | number): string {
  const then = typeof at === 'number' ? at : parseTime(at);
  if (Number.isNaN(then)) return '';
  return new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeStyle: 'medium' }).format(then);
}

/** "4 December 2026". "" for what is no time. */
export function day(at: string): string {
  const then = parseTime(at);
  if (Number.isNaN(then)) return '';
  return new Intl.DateTimeFormat(locale(), { dateStyle: 'long' }).format(then);
}

/** "14:03" of Unix seconds. */
export const hour = (unixS: number): string =>
  new Intl.DateTimeFormat(locale(), { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).format(unixS * 1000);

/** "14:03:09" of a console line. */
export function clock(at: string): string {
  const d = new Date(parseTime(at));
  if (Number.isNaN(d.getTime())) return '--:--:--';
  return [d.getHours(), d.getMinutes(), d.getSeconds()].map((n) => String(n).padStart(2, '0')).join(':');
}
