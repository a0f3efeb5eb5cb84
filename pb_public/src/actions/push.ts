// Switches push messages on and off in this browser, and keeps them on.
import type { QueryClient } from '@tanstack/react-query';
import { addBrowser, listBrowsers, removeBrowser } from '@/api/notices';
import type { PushBrowser, PushBrowsers } from '@/api/views';
import {
  allowed,
  forgetHere,
  hashOf,
  keep,
  kept,
  rowHere,
  sameKey,
  subscribeHere,
  subscriptionHere,
  supported,
} from '@/stores/push';
import { browsersQuery } from '@/stores/queries';

/** False when the person does not allow it. Throws ApiError, or what the browser says of its push service. */
export async function switchPushOn(client: QueryClient, account: string, key: string): Promise<boolean> {
  if (!(await allowed())) return false;
  await tell(client, account, await subscribeHere(key));
  return true;
}

/** Throws ApiError. */
export async function switchPushOff(client: QueryClient, list: PushBrowsers): Promise<void> {
  const has = await subscriptionHere();
  const row = has && rowHere(list, await hashOf(has.endpoint));
  if (row) await gone(removeBrowser(row.id));
  await forgetHere().catch(() => undefined); // the panel sends nothing there any more
  await client.invalidateQueries({ queryKey: browsersQuery.queryKey });
}

/** Removes any of one's browsers. Throws ApiError. */
export async function endBrowser(client: QueryClient, list: PushBrowsers, one: PushBrowser): Promise<void> {
  const has = await subscriptionHere();
  if (has && (await hashOf(has.endpoint)) === one.endpoint_hash) return switchPushOff(client, list);
  await gone(removeBrowser(one.id));
  await client.invalidateQueries({ queryKey: browsersQuery.queryKey });
}

/**
 * Sees to it that a browser that was switched on for this account stays so: with the panel's key of now, and at the
 * address that the push service has given it. One that was removed, here or elsewhere, is not put back.
 */
export async function keepPush(client: QueryClient, account: string): Promise<void> {
  const was = kept();
  if (!was || was.account !== account || !supported() || Notification.permission !== 'granted') return;
  const list = await listBrowsers();
  const has = await subscriptionHere();
  const hash = has ? await hashOf(has.endpoint) : '';
  const good = has !== null && sameKey(has, list.key);
  const known = rowHere(list, hash);
  if (good && known) {
    keep({ account, hash });
    return;
  }
  if (hash === was.hash && !known) {
    await forgetHere();
    return;
  }
  await tell(client, account, await subscribeHere(list.key));
  const old = rowHere(list, was.hash);
  if (old) await gone(removeBrowser(old.id));
}

async function tell(client: QueryClient, account: string, has: PushSubscription): Promise<void> {
  await addBrowser(has.toJSON());
  keep({ account, hash: await hashOf(has.endpoint) });
  await client.invalidateQueries({ queryKey: browsersQuery.queryKey });
}

/** One that has gone meanwhile counts as removed. */
const gone = (removing: Promise<void>) =>
  removing.catch((cause) => {
    if (cause.code !== 'subscription_not_found') throw cause;
  });
