import { Checkbox, Skeleton } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { Fragment } from 'react';
import { setNoticePref } from '@/actions/notices';
import type { NoticeChannel, NoticeKind } from '@/api/views';
import { noticePrefsQuery } from '@/stores/queries';
import { t, tMaybe } from '@/texts';
import { Card } from './Card';
import { Failure } from './Failure';
import classes from './NoticesCard.module.css';
import { useAct } from './useAct';

/** What one is told of, a row for each thing and a column for each channel. */
export function NoticesCard() {
  const prefs = useQuery(noticePrefsQuery);
  const data = prefs.data;
  const groups = [...new Set(data?.items.map((k) => k.group))];
  const channels = data?.channels ?? [];
  return (
    <Card title={t('notices.settings')} lead={t('notices.settingsLead')}>
      {data ? (
        <div className={classes.scroll}>
          {!data.email_confirmed && <p className="muted">{t('notices.emailUnconfirmed')}</p>}
          <table className={classes.table}>
            <thead>
              <tr>
                <th scope="col">{t('notices.what')}</th>
                {channels.map((c) => (
                  <th key={c} scope="col">
                    {t(`notices.channel.${c}`)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {groups.map((group) => (
                <Fragment key={group}>
                  <tr>
                    <th scope="rowgroup" colSpan={channels.length + 1} className={classes.group}>
                      {tMaybe(`notices.group.${group}`) ?? group}
                    </th>
                  </tr>
                  {data.items
                    .filter((k) => k.group === group)
                    .map((k) => (
                      <Row key={k.kind} kind={k} channels={channels} />
                    ))}
                </Fragment>
              ))}
            </tbody>
          </table>
        </div>
      ) : prefs.error ? (
        <Failure cause={prefs.error} retry={() => void prefs.refetch()} />
      ) : (
        <Skeleton height={240} radius={8} />
      )}
    </Card>
  );
}

function Row({ kind, channels }: { kind: NoticeKind; channels: NoticeChannel[] }) {
  const client = useQueryClient();
  const { run } = useAct((channel: NoticeChannel, on: boolean) => setNoticePref(client, kind.kind, channel, on));
  return (
    <tr>
      <th scope="row">{kind.title}</th>
      {channels.map((c) => (
        <td key={c}>
          <Checkbox
            aria-label={t('notices.toggle', { title: kind.title, channel: t(`notices.channel.${c}`) })}
            checked={kind.channels[c]}
            disabled={kind.locked.includes(c)}
            onChange={(e) => void run(c, e.currentTarget.checked)}
          />
        </td>
      ))}
    </tr>
  );
}
