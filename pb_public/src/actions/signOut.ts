// Ends the session on this device: token, realtime and everything cached.
import type { QueryClient } from '@tanstack/react-query';
import { pb } from '@/api/client';

export async function signOut(client: QueryClient): Promise<void> {
  pb.authStore.clear();
  client.clear(); // the next person at this browser sees nothing of this one
  await pb.realtime.unsubscribe().catch(() => undefined); // the connection may be gone already
}
