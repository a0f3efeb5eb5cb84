import { Button, SegmentedControl, Skeleton } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { lazy, Suspense, useState } from 'react';
import { asApiError } from '@/api/error';
import type { Metrics, MetricsRange } from '@/api/views';
import { keep, kept } from '@/stores/kept';
import { isLive, latest, measuredAt, newest, peak, ran } from '@/stores/metrics';
import { metricsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Card } from './Card';
import { ago, bytes, cores, rate } from './format';
import { RequestId } from './RequestId';
import classes from './UsageCard.module.css';

const UsageChart = lazy(() => import('./UsageChart'));

/** One small chart: what it is called, its lines, its ceiling and how its values are written. */
export interface Gauge {
  name: string;
  lines: (number | null)[][];
  limit?: number;
  write: (n: number) => string;
  /** Its values are bytes: the grid goes by powers of two. */
  binary?: boolean;
}

function gauges(m: Metrics): Gauge[] {
  return [
    { name: t('usage.cpu'), lines: [m.cpu_millicores], limit: m.limits.cpu_millicores, write: cores },
    { name: t('usage.memory'), lines: [m.memory_bytes], limit: m.limits.memory_bytes, write: bytes, binary: true },
    { name: t('usage.network'), lines: [m.net_in_bytes_per_s, m.net_out_bytes_per_s], write: rate, binary: true },
    { name: t('usage.disk'), lines: [m.disk_bytes], limit: m.limits.disk_bytes, write: bytes, binary: true },
  ];
}

/** What the server uses now, and used in the last hour or day. */
export function UsageCard({ org, id }: { org: string; id: string }) {
  const [range, setRange] = useState<MetricsRange>(kept('usage.range') === '24h' ? '24h' : '1h');
  const metrics = useQuery(metricsQuery(org, id, range));
  const choose = (value: string) => {
    keep('usage.range', value);
    setRange(value as MetricsRange);
  };
  const m = metrics.data;
  return (
    <Card
      title={t('usage.title')}
      lead={m && newest(m) >= 0 && !isLive(m) ? t('usage.late', { ago: ago(measuredAt(m) * 1000) }) : undefined}
      action={
        <SegmentedControl
          size="xs"
          aria-label={t('usage.range')}
          value={range}
          onChange={choose}
          data={[
            { value: '1h', label: t('usage.hour') },
            { value: '24h', label: t('usage.day') },
          ]}
        />
      }
    >
      {m ? (
        <Gauges metrics={m} />
      ) : metrics.error ? (
        <Failed cause={metrics.error} retry={() => void metrics.refetch()} />
      ) : (
        <Waiting />
      )}
    </Card>
  );
}

function Gauges({ metrics: m }: { metrics: Metrics }) {
  if (newest(m) < 0) {
    return (
      <div className={classes.none}>
        <strong>{t('usage.none')}</strong>
        <p className="muted">{t('usage.noneLead')}</p>
      </div>
    );
  }
  return (
    <div className={classes.gauges}>
      {gauges(m).map((g) => (
        <section key={g.name} className={classes.gauge} aria-label={g.name}>
          <header>
            <h3>{g.name}</h3>
            <p className="num" data-testid={`usage-${g.name}`}>
              <Now metrics={m} gauge={g} />
            </p>
          </header>
          <Suspense fallback={<Skeleton height={HEIGHT} />}>
            <UsageChart metrics={m} gauge={g} height={HEIGHT} label={spoken(m, g)} />
          </Suspense>
        </section>
      ))}
    </div>
  );
}

const HEIGHT = 92;

function values(m: Metrics, g: Gauge): string {
  const now = g.lines.map((line) => latest(m, line));
  if (!isLive(m) || now.some((v) => v === null)) return t('usage.unknown');
  const [first = '', second] = now.map((v) => g.write(v ?? 0));
  if (second === undefined) return first;
  return `${t('usage.in', { rate: first })}, ${t('usage.out', { rate: second })}`;
}

function Now({ metrics: m, gauge: g }: { metrics: Metrics; gauge: Gauge }) {
  const off = isLive(m) && !ran(m) && g.name !== t('usage.disk');
  if (off) return <span className="muted">{t('usage.off')}</span>;
  return (
    <>
      <strong>{values(m, g)}</strong>
      {g.limit !== undefined && <span className="muted"> {t('usage.of', { limit: g.write(g.limit) })}</span>}
    </>
  );
}

/** The chart in words, for those who do not see it. */
function spoken(m: Metrics, g: Gauge): string {
  return t('usage.chart', {
    name: g.name,
    range: m.range === '1h' ? t('usage.hour') : t('usage.day'),
    now: values(m, g),
    peak: g.write(Math.max(...g.lines.map(peak))),
  });
}

function Failed({ cause, retry }: { cause: unknown; retry: () => void }) {
  const error = asApiError(cause);
  return (
    <div className={classes.none} role="alert">
      <strong>{t('usage.failed')}</strong>
      <p className="muted">{error.message}</p>
      <Button size="xs" variant="default" onClick={retry}>
        {t('action.retry')}
      </Button>
      <RequestId id={error.requestId} />
    </div>
  );
}

function Waiting() {
  return (
    <div className={classes.gauges} aria-busy="true">
      {['a', 'b', 'c', 'd'].map((k) => (
        <div key={k} className={classes.gauge}>
          <Skeleton height={20} width="60%" mb={10} />
          <Skeleton height={HEIGHT} />
        </div>
      ))}
    </div>
  );
}
