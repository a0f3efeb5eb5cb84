// Deletes one's own account. What is held of it here goes with it.
import type { QueryClient } from '@tanstack/react-query';
import { pb, request } from '@/api/client';
import { forgetAnswers } from '@/stores/queries';

export const deleteAccount = (): Promise<void> => request<void>('account', { method: 'DELETE' });

/** To be called once no page of the account is shown any more: those would ask for everything again. */
export async function forgetAccount(client: QueryClient): Promise<void> {
  pb.authStore.clear();
  forgetAnswers(client);
  await pb.realtime.unsubscribe().catch(() => undefined); // the connection is gone already
}
