// What one is told of: a switch, and what was read.
import type { QueryClient } from '@tanstack/react-query';
import { markAllRead, markRead, putMute, putNoticePref, putWebhookKinds } from '@/api/notices';
import type { MutedServer, NoticeChannel, NoticePage, NoticePrefs, Webhooks } from '@/api/views';
import { mutesQuery, noticePrefsQuery, webhooksQuery } from '@/stores/queries';

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

/** Marks one, on every page that holds it; what is read already stays so. Throws ApiError. */
export async function readOne(client: QueryClient, id: string): Promise<void> {
  client.setQueriesData<NoticePage>({ queryKey: ['notices'] }, (held) => {
    const one = held?.items.find((n) => n.id === id);
    if (!held || !one || one.read_at !== null) return held;
    const now = new Date().toISOString();
    return {
      ...held,
      unread: Math.max(0, held.unread - 1),
      items: held.items.map((n) => (n.id === id ? { ...n, read_at: now } : n)),
    };
  });
  try {
    await markRead([id]);
  } finally {
    await client.invalidateQueries({ queryKey: ['notices'] });
  }
}

/** What an organisation's webhook is sent. Shown at once; goes back when the panel refuses. Throws ApiError. */
export async function setWebhookKind(
  client: QueryClient,
  org: string,
  id: string,
  kind: string,
  on: boolean,
): Promise<void> {
  const put = (to: boolean) =>
    client.setQueryData<Webhooks>(
      webhooksQuery(org).queryKey,
      (held) =>
        held && {
          ...held,
          items: held.items.map((w) => (w.id === id ? { ...w, kinds: { ...w.kinds, [kind]: to } } : w)),
        },
    );
  put(on);
  try {
    await putWebhookKinds(org, id, { [kind]: on });
  } catch (cause) {
    put(!on);
    throw cause;
  }
}

/** Hears nothing of a server any more, or again. Shown at once; goes back when the panel refuses. Throws ApiError. */
export async function setMute(client: QueryClient, tenant: string, server: string, on: boolean): Promise<void> {
  const put = (to: boolean) =>
    client.setQueryData<MutedServer[]>(mutesQuery.queryKey, (held) => {
      const others = held?.filter((m) => m.server !== server);
      return others && to ? [...others, { server, tenant, created: new Date().toISOString() }] : others;
    });
  put(on);
  try {
    await putMute(server, on);
  } catch (cause) {
    put(!on);
    throw cause;
  }
}
