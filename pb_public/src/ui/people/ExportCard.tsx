import { Button, Skeleton } from '@mantine/core';
import { IconDownload } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { exportTenant } from '@/actions/exportTenant';
import { saveFile } from '@/actions/saveFile';
import { fetchExport } from '@/api/exports';
import type { Export } from '@/api/views';
import { exportsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Ago } from '../Ago';
import { Card } from '../Card';
import classes from '../Card.module.css';
import { Failure } from '../Failure';
import { bytes, day } from '../format';
import { toastDone } from '../toast';
import { useAct } from '../useAct';

/** Takes all data of an organisation along: asks for an archive, and lists those that can be downloaded. */
export function ExportCard({ org }: { org: string }) {
  const client = useQueryClient();
  const list = useQuery(exportsQuery(org));
  const running = list.data?.some((one) => one.status === 'RUNNING') ?? false;
  const ask = useAct(async () => {
    await exportTenant(client, org);
    toastDone(t('org.exportAsked'));
  });
  return (
    <Card
      title={t('org.export')}
      lead={t('org.exportLead')}
      action={
        <Button variant="default" loading={ask.busy} disabled={running} onClick={() => void ask.run()}>
          {t('org.exportButton')}
        </Button>
      }
    >
      {list.data === undefined ? (
        list.error ? (
          <Failure cause={list.error} retry={() => void list.refetch()} />
        ) : (
          <Skeleton height={60} radius={8} />
        )
      ) : list.data.length === 0 ? (
        <p className="muted">{t('org.exportNone')}</p>
      ) : (
        list.data.map((one) => <Row key={one.id} org={org} one={one} />)
      )}
    </Card>
  );
}

function Row({ org, one }: { org: string; one: Export }) {
  const take = useAct(async () => saveFile(await fetchExport(org, one.id)));
  return (
    <div className={classes.action} data-testid="export">
      <div>
        <h3>
          {t('org.exportOf')} <Ago at={one.created} />
        </h3>
        <p className="muted" role="status">
          {one.status === 'RUNNING'
            ? t('org.exportRunning')
            : one.status === 'FAILED'
              ? t('org.exportFailed')
              : t('org.exportReady', { size: bytes(one.bytes), day: day(one.expires_at) })}
        </p>
      </div>
      {one.status === 'READY' && (
        <Button
          variant="default"
          loading={take.busy}
          leftSection={<IconDownload size={17} aria-hidden="true" />}
          onClick={() => void take.run()}
        >
          {t('org.exportTake')}
        </Button>
      )}
    </div>
  );
}
