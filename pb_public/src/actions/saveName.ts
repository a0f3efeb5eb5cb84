// Changes one's own name.
import type { QueryClient } from '@tanstack/react-query';
import { pb } from '@/api/client';
import { asApiError } from '@/api/error';
import type { Account } from '@/api/views';

/** Shown at once; goes back when the panel refuses. Throws ApiError. */
export async function saveName(client: QueryClient, id: string, name: string): Promise<void> {
  const before = client.getQueryData<Account>(['account']);
  const put = (to: string) => client.setQueryData<Account>(['account'], (held) => held && { ...held, name: to });
  put(name.trim());
  try {
    await pb.collection('users').update(id, { name: name.trim() });
  } catch (cause) {
    if (before) put(before.name);
    throw asApiError(cause);
  }
}
