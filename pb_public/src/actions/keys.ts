// Makes and revokes API keys. The secret of a new one is given to the caller and kept nowhere.
import type { QueryClient } from '@tanstack/react-query';
import { type KeyContent, makeKey, revokeKey } from '@/api/keys';
import type { ApiKeys, MadeKey } from '@/api/views';
import { keysQuery } from '@/stores/queries';

/** Addresses as somebody types them: by line, comma or space. */
export const addressesOf = (text: string): string[] => text.split(/[\s,;]+/).filter((one) => one !== '');

/** Throws ApiError. */
export async function addKey(client: QueryClient, org: string, content: KeyContent): Promise<MadeKey> {
  const made = await makeKey(org, { ...content, name: content.name.trim() });
  const { secret: _, ...shown } = made;
  client.setQueryData<ApiKeys>(keysQuery(org).queryKey, (held) => held && { ...held, items: [shown, ...held.items] });
  return made;
}

/** One that is revoked already counts as revoked. Throws ApiError. */
export async function endKey(client: QueryClient, org: string, id: string): Promise<void> {
  await revokeKey(org, id).catch((cause) => {
    if (cause.code !== 'key_not_found') throw cause;
  });
  client.setQueryData<ApiKeys>(
    keysQuery(org).queryKey,
    (held) => held && { ...held, items: held.items.filter((one) => one.id !== id) },
  );
}
