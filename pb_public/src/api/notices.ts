// What one is told of, and on which channels.
import { request } from './client';
import { tenantPath } from './people';
import type { NoticeKind, NoticePage, NoticePrefs, Webhook } from './views';

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

export async function listWebhooks(org: string, signal?: AbortSignal): Promise<Webhook[]> {
  return (await request<{ items: Webhook[] }>(hooks(org), { signal })).items;
}

export const addWebhook = (org: string, name: string, url: string) =>
  request<Webhook>(hooks(org), { method: 'POST', body: { name, url } });

export const removeWebhook = (org: string, id: string) => request<void>(hooks(org, id), { method: 'DELETE' });

export const testWebhook = (org: string, id: string) =>
  request<{ sent: boolean }>(hooks(org, id, 'test'), { method: 'POST' });
