// Ends the session on this device: token, realtime and everything cached.
import type { QueryClient } from '@tanstack/react-query';
import { pb, request } from '@/api/client';
import { forgetHere } from '@/stores/push';
import { forgetAnswers } from '@/stores/queries';

/** How long the panel may take to hear of it. */
const PATIENCE_MS = 3_000;

export async function signOut(client: QueryClient): Promise<void> {
  const told = request('account/sessions/current', { method: 'DELETE' }).catch(() => undefined); // it may have ended already
  forgetHere().catch(() => undefined); // not waited for: the panel forgets this browser with the session
  await Promise.race([told, new Promise((done) => setTimeout(done, PATIENCE_MS))]);
  pb.authStore.clear();
  forgetAnswers(client);
  await pb.realtime.unsubscribe().catch(() => undefined); // the connection may be gone already
}
