// Ends one's other sessions, one or all.
import type { QueryClient } from '@tanstack/react-query';
import { endOtherSessions, endSession } from '@/api/account';
import type { Session } from '@/api/views';
import { sessionsQuery } from '@/stores/queries';

/** Throws ApiError. One that has ended meanwhile counts as ended. */
export async function endOne(client: QueryClient, id: string): Promise<void> {
  await endSession(id).catch((cause) => {
    if (cause.code !== 'session_not_found') throw cause;
  });
  keep(client, (s) => s.id !== id);
}

/** All but this one. Throws ApiError. */
export async function endOthers(client: QueryClient): Promise<number> {
  const ended = await endOtherSessions();
  keep(client, (s) => s.current);
  return ended;
}

function keep(client: QueryClient, stays: (s: Session) => boolean): void {
  client.setQueryData(sessionsQuery.queryKey, (held: Session[] | undefined) => held?.filter(stays));
}
