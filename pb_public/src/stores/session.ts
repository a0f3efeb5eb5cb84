// Who is signed in. PocketBase's auth store holds the token; this is what the app asks about it.
import { pb } from '@/api/client';

export interface Session {
  id: string;
  email: string;
  name: string;
}

/** The session, or null. Its token may have run out: the next request renews it, or ends the session. */
export function session(): Session | null {
  const { record } = pb.authStore;
  if (!record) return null;
  return { id: record.id, email: String(record.email ?? ''), name: String(record.name ?? '') };
}

/** Calls back whenever somebody signs in or out, in this tab or another. */
export function onSession(listener: (now: Session | null) => void): () => void {
  return pb.authStore.onChange(() => listener(session()));
}

/** Where to go after signing in: a path of this app, never another site. */
export function safeNext(next: unknown): string {
  return typeof next === 'string' && /^\/(?![/\\])/.test(next) ? next : '/';
}
