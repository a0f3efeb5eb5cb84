// What an activity entry says. Kinds are the panel's event kinds ("server.started", "server.start", …).
import type { Activity } from '@/api/views';
import { t, tMaybe } from '@/texts';

// Other words for the same thing, by the last part of the kind.
const same: Record<string, string> = {
  create: 'created',
  create_requested: 'created',
  delete: 'delete_requested',
  update: 'updated',
  started: 'running',
  ready: 'running',
  exited: 'stopped',
  crash: 'crashed',
  start_requested: 'start',
  stop_requested: 'stop',
  restart_requested: 'restart',
  kill_requested: 'kill',
  reinstall_requested: 'reinstall',
  status: 'status_changed',
  phase_changed: 'status_changed',
  command_sent: 'command',
};

export function activityText(one: Pick<Activity, 'kind' | 'payload'>): string {
  const last = one.kind.split('.').slice(1).join('_') || one.kind;
  const payload = one.payload ?? {};
  const action = typeof payload.action === 'string' ? payload.action : '';
  const key = last === 'action' || last === 'power' ? action : (same[last] ?? last);
  if (key === 'status_changed') {
    const to = String(payload.status ?? payload.to ?? '');
    return t('activity.kinds.status_changed', { status: tMaybe(`status.${to}`) ?? to });
  }
  return tMaybe(`activity.kinds.${key}`) ?? t('activity.kinds.other', { kind: one.kind });
}

export function actorText(actor: Activity['actor']): string {
  if (actor?.name) return actor.name;
  return actor?.type === 'node' ? t('activity.node') : t('activity.system');
}
