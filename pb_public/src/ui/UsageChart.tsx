// uPlot in React: loaded only where a chart is shown.
import { useComputedColorScheme } from '@mantine/core';
import { useEffect, useRef, useState } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import type { Metrics } from '@/api/views';
import { times } from '@/stores/metrics';
import { t } from '@/texts';
import { exact, hour } from './format';
import type { Gauge } from './UsageCard';
import classes from './UsageCard.module.css';

const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const POWERS = Array.from({ length: 50 }, (_, i) => 2 ** i);

/** The top of the scale: the ceiling once use comes near it, else a little above the highest value. */
export function top(highest: number, limit: number | undefined): number {
  if (limit !== undefined && highest > limit * 0.6) return Math.max(limit, highest) * 1.05;
  return Math.max(highest * 1.25, limit === undefined ? 1024 : limit * 0.02);
}

function options(width: number, height: number, gauge: Gauge, point: (i: number | null) => void): uPlot.Options {
  const axis = {
    stroke: colour('--mh-muted'),
    font: '11px Inter Variable, system-ui, sans-serif',
    ticks: { show: false },
  };
  const grid = { stroke: colour('--mh-line'), width: 1 };
  const lines = [colour('--mh-accent'), colour('--mh-muted')];
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    padding: [6, 4, 0, 0],
    scales: { x: { time: true }, y: { range: (_, __, highest) => [0, top(highest ?? 0, gauge.limit)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 20, space: 70, values: (_, splits) => splits.map(hour) },
      {
        ...axis,
        grid,
        size: 58,
        space: 34,
        ...(gauge.binary && { incrs: POWERS }),
        values: (_, splits) => splits.map((v) => gauge.write(v)),
      },
    ],
    series: [
      {},
      ...gauge.lines.map((_, i) => ({
        stroke: lines[i],
        width: 1.5,
        fill: i === 0 && gauge.lines.length === 1 ? `color-mix(in srgb, ${lines[0]} 14%, transparent)` : undefined,
        dash: i === 0 ? undefined : [4, 3],
        points: { show: false },
      })),
    ],
    hooks: { setCursor: [(u) => point(u.cursor.idx ?? null)] },
  };
}

/** One chart as wide as its place. */
export default function UsageChart({
  metrics,
  gauge,
  height,
  label,
}: {
  metrics: Metrics;
  gauge: Gauge;
  height: number;
  label: string;
}) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const [at, setAt] = useState<number | null>(null);
  const scheme = useComputedColorScheme();
  const data = [times(metrics), ...gauge.lines] as uPlot.AlignedData;
  const newest = useRef({ data, gauge });
  newest.current = { data, gauge };

  // biome-ignore lint/correctness/useExhaustiveDependencies: another scheme has other colours
  useEffect(() => {
    const box = place.current;
    if (!box) return;
    const made = new uPlot(
      options(box.clientWidth || 240, height, newest.current.gauge, setAt),
      newest.current.data,
      box,
    );
    plot.current = made;
    const sizes = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height }));
    sizes.observe(box);
    return () => {
      sizes.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [scheme, height, gauge.name, gauge.limit]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: new columns come with new metrics
  useEffect(() => plot.current?.setData(newest.current.data), [metrics]);

  return (
    <div className={classes.chart}>
      <div ref={place} role="img" aria-label={label} />
      {at !== null && <Readout metrics={metrics} gauge={gauge} at={at} />}
    </div>
  );
}

function Readout({ metrics, gauge, at }: { metrics: Metrics; gauge: Gauge; at: number }) {
  const written = gauge.lines.map((line) => {
    const v = line[at];
    return v === null || v === undefined ? t('usage.unknown') : gauge.write(v);
  });
  return (
    <div className={`${classes.readout} num`} aria-hidden="true">
      {written.join(' · ')} · {exact((metrics.from_unix_s + at * metrics.step_s) * 1000)}
    </div>
  );
}
