// What one is told of: a switch, and what was read.
import type { QueryClient } from '@tanstack/react-query';
import { markAllRead, putNoticePref } from '@/api/notices';
import type { NoticeChannel, NoticePrefs } from '@/api/views';
import { noticePrefsQuery } from '@/stores/queries';

/** Shown at once; goes back when the panel refuses. Throws ApiError. */
export async function setNoticePref(
  client: QueryClient,
  kind: string,
  channel: NoticeChannel,
  on: boolean,
): Promise<void> {
  const put = (to: boolean) =>
    client.setQueryData<NoticePrefs>(
      noticePrefsQuery.queryKey,
      (held) =>
        held && {
          ...held,
          items: held.items.map((k) => (k.kind === kind ? { ...k, channels: { ...k.channels, [channel]: to } } : k)),
        },
    );
  put(on);
  try {
    await putNoticePref(kind, channel, on);
  } catch (cause) {
    put(!on);
    throw cause;
  }
}

/** Throws ApiError. */
export async function readAll(client: QueryClient): Promise<void> {
  await markAllRead();
  await client.invalidateQueries({ queryKey: ['notices'] });
}
