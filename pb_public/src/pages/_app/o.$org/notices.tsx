import { Button, Skeleton } from '@mantine/core';
import { IconBell } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { useState } from 'react';
import { readAll } from '@/actions/notices';
import type { Notice } from '@/api/views';
import { noticesQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Ago } from '@/ui/Ago';
import { Card } from '@/ui/Card';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { NoticeLink } from '@/ui/NoticeLink';
import classes from '@/ui/NoticesCard.module.css';
import { PageHead } from '@/ui/PageHead';
import { useAct } from '@/ui/useAct';

export const Route = createFileRoute('/_app/o/$org/notices')({ component: Notices });

/** Everything that one was told of, of all organisations. */
function Notices() {
  const client = useQueryClient();
  const [page, setPage] = useState(1);
  const notices = useQuery(noticesQuery(page));
  const { run, busy } = useAct(() => readAll(client));
  const data = notices.data;
  if (notices.error && !data) return <Failure cause={notices.error} retry={() => void notices.refetch()} />;
  return (
    <>
      <PageHead
        title={t('notices.title')}
        action={
          data &&
          data.unread > 0 && (
            <Button variant="default" loading={busy} onClick={() => void run()}>
              {t('notices.readAll')}
            </Button>
          )
        }
      />
      {!data ? (
        <Skeleton height={320} radius={12} />
      ) : data.total === 0 ? (
        <Empty
          icon={<IconBell size={26} aria-hidden="true" />}
          title={t('notices.none')}
          lead={t('notices.noneLead')}
        />
      ) : (
        <Card>
          <ul className={classes.list}>
            {data.items.map((one) => (
              <Row key={one.id} one={one} />
            ))}
          </ul>
          {data.total > data.per_page && (
            <div className={classes.pages}>
              <Button variant="default" disabled={page === 1} onClick={() => setPage(page - 1)}>
                {t('notices.newer')}
              </Button>
              <Button variant="default" disabled={page * data.per_page >= data.total} onClick={() => setPage(page + 1)}>
                {t('notices.older')}
              </Button>
            </div>
          )}
        </Card>
      )}
    </>
  );
}

function Row({ one }: { one: Notice }) {
  return (
    <li className={classes.row} data-testid="notice">
      <div>
        {one.read_at === null && <span className={classes.unread}>{t('notices.new')}</span>}
        <strong>{one.server || one.link ? <NoticeLink one={one}>{one.subject}</NoticeLink> : one.subject}</strong>
        <p>{one.body}</p>
        <p>
          {t(`notices.severity.${one.severity}`)} · {one.org && `${one.org} · `}
          <Ago at={one.at} />
        </p>
      </div>
    </li>
  );
}
