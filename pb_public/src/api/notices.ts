// What one is told of, and on which channels.
import { request } from './client';
import { tenantPath } from './people';
import type {
  MutedServer,
  NoticeKind,
  NoticePage,
  NoticePrefs,
  PushBrowser,
  PushBrowsers,
  Webhook,
  Webhooks,
} from './views';

export const listNotices = (page: number, signal?: AbortSignal) =>
  request<NoticePage>('notifications', { query: { page }, signal });

export const markRead = (ids: string[]) =>
  request<{ unread: number }>('notifications/read', { method: 'POST', body: { ids } });

export const markAllRead = () => request<{ unread: number }>('notifications/read-all', { method: 'POST' });

export const getNoticePrefs = (signal?: AbortSignal) => request<NoticePrefs>('notifications/preferences', { signal });

export const putNoticePref = (kind: string, channel: string, enabled: boolean) =>
  request<NoticeKind>('notifications/preferences', { method: 'PUT', body: { kind, channel, enabled } });

/** Path of one's own webhooks, or with an organisation of that one's. */
const hooks = (org: string, ...rest: string[]): string =>
  org ? tenantPath(org, 'channels', ...rest) : ['notifications', 'channels', ...rest].map(encodeURIComponent).join('/');

export const listWebhooks = (org: string, signal?: AbortSignal) => request<Webhooks>(hooks(org), { signal });

export const addWebhook = (org: string, name: string, url: string) =>
  request<Webhook>(hooks(org), { method: 'POST', body: { name, url } });

/** Of an organisation's: which kinds are sent there. Those that are not named stay as they are. */
export const putWebhookKinds = (org: string, id: string, kinds: Record<string, boolean>) =>
  request<Webhook>(hooks(org, id), { method: 'PATCH', body: { kinds } });

export const removeWebhook = (org: string, id: string) => request<void>(hooks(org, id), { method: 'DELETE' });

export const testWebhook = (org: string, id: string) =>
  request<{ sent: boolean }>(hooks(org, id, 'test'), { method: 'POST' });

/** The browsers that push messages go to, and the panel's key. */
export const listBrowsers = (signal?: AbortSignal) => request<PushBrowsers>('notifications/push', { signal });

export const addBrowser = (subscription: PushSubscriptionJSON) =>
  request<PushBrowser>('notifications/push', {
    method: 'POST',
    body: { endpoint: subscription.endpoint, keys: subscription.keys },
  });

export const removeBrowser = (id: string) => request<void>(`notifications/push/${id}`, { method: 'DELETE' });

export const testBrowser = (id: string) =>
  request<{ sent: boolean }>(`notifications/push/${id}/test`, { method: 'POST' });

export async function listMutes(signal?: AbortSignal): Promise<MutedServer[]> {
  return (await request<{ items: MutedServer[] }>('notifications/mutes', { signal })).items;
}

export const putMute = (server: string, on: boolean) =>
  request<void>(`notifications/mutes/${server}`, { method: on ? 'PUT' : 'DELETE' });
