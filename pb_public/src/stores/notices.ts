// What is behind the bell: kept fresh by one's own realtime topic.
import { type QueryClient, useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';
import { pb } from '@/api/client';
import type { Notice, NoticePage } from '@/api/views';
import { noticesQuery } from './queries';

/** One message of the topic mamba.user.<id>. */
export interface NoticeMessage {
  type: string;
  data?: { notice?: Notice; unread?: number };
}

/** Applies a message to the first page; other pages are asked for again when they are looked at. */
export function applyNotice(client: QueryClient, message: NoticeMessage): void {
  const { notice, unread } = message.data ?? {};
  client.setQueryData<NoticePage>(noticesQuery(1).queryKey, (held) => {
    if (!held) return held;
    const fresh = notice && !held.items.some((one) => one.id === notice.id);
    return {
      ...held,
      unread: unread ?? held.unread,
      total: held.total + (fresh ? 1 : 0),
      items: fresh ? [notice, ...held.items].slice(0, held.per_page) : held.items,
    };
  });
  if (!notice) void client.invalidateQueries({ queryKey: ['notices'] }); // which ones were read, or a resync
}

/** Watches one's own topic as long as the page is there. */
export function useLiveNotices(account: string | undefined): void {
  const client = useQueryClient();
  useEffect(() => {
    if (!account) return;
    let stopped = false;
    let stop: (() => void) | undefined;
    pb.realtime
      .subscribe(`mamba.user.${account}`, (message) => applyNotice(client, message as NoticeMessage))
      .then((unsubscribe) => {
        stop = () => void unsubscribe().catch(() => undefined); // the connection is gone already
        if (stopped) stop();
        else void client.invalidateQueries({ queryKey: ['notices'] }); // what came before was told to nobody
      })
      .catch(() => undefined); // the line of stores/live says that nothing is live
    return () => {
      stopped = true;
      stop?.();
    };
  }, [account, client]);
}
