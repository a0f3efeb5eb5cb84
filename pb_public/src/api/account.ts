// One's own sessions.
import { request } from './client';
import type { Session } from './views';

export async function listSessions(signal?: AbortSignal): Promise<Session[]> {
  return (await request<{ items: Session[] }>('account/sessions', { signal })).items;
}

export const endSession = (id: string) => request<void>(`account/sessions/${id}`, { method: 'DELETE' });

export async function endOtherSessions(): Promise<number> {
  return (await request<{ ended: number }>('account/sessions/others', { method: 'DELETE' })).ended;
}
