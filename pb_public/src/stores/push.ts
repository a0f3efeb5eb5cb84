// What this browser itself knows of push messages: its permission, its worker, its subscription, and for whom it
// was switched on. The panel's part is in api/notices.
import type { PushBrowsers } from '@/api/views';

/** "unsupported": the browser cannot, or the page was not loaded over https. "denied": the person has said no. */
export type PushState = 'unsupported' | 'denied' | 'off' | 'on';

/** What the worker tells open pages, see public/worker.js. */
export const PUSH_CHANGED = 'mamba.push-changed';

const WORKER = '/worker.js';
const KEPT = 'mamba.push';

/** For whom this browser was switched on, and the hash of the endpoint that the panel was told. */
interface Kept {
  account: string;
  hash: string;
}

export function kept(): Kept | null {
  try {
    const { account, hash } = JSON.parse(localStorage.getItem(KEPT) ?? '') as Kept;
    return typeof account === 'string' && typeof hash === 'string' ? { account, hash } : null;
  } catch {
    return null; // nothing is kept, or storage is off
  }
}

export function keep(now: Kept | null): void {
  try {
    if (now) localStorage.setItem(KEPT, JSON.stringify(now));
    else localStorage.removeItem(KEPT);
  } catch {
    // storage is off: it is on until the push service forgets it, or is removed in the list
  }
}

export const supported = (): boolean =>
  globalThis.isSecureContext === true &&
  'serviceWorker' in navigator &&
  'PushManager' in globalThis &&
  'Notification' in globalThis;

const registered = async () => navigator.serviceWorker.getRegistration('/');

/** This browser's subscription, or null. */
export async function subscriptionHere(): Promise<PushSubscription | null> {
  if (!supported()) return null;
  return (await (await registered())?.pushManager.getSubscription()) ?? null;
}

/** SHA-256 of an endpoint, hex: how the panel names this browser. */
export async function hashOf(endpoint: string): Promise<string> {
  const sum = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(endpoint));
  return [...new Uint8Array(sum)].map((b) => b.toString(16).padStart(2, '0')).join('');
}

/** The row of this browser among those that the panel knows; undefined when it knows it not. */
export const rowHere = (list: PushBrowsers, hash: string) => list.items.find((one) => one.endpoint_hash === hash);

/** How it is here, for an account. */
export async function stateHere(account: string, list: PushBrowsers): Promise<{ state: PushState; hash: string }> {
  if (!supported()) return { state: 'unsupported', hash: '' };
  const has = await subscriptionHere();
  const hash = has ? await hashOf(has.endpoint) : '';
  if (Notification.permission === 'denied') return { state: 'denied', hash };
  const on = Notification.permission === 'granted' && rowHere(list, hash) && kept()?.account === account;
  return { state: on ? 'on' : 'off', hash };
}

/** Asks the person, if he was not asked yet. */
export const allowed = async (): Promise<boolean> =>
  Notification.permission === 'granted' || (await Notification.requestPermission()) === 'granted';

/** Subscribes this browser with the panel's key; what it has with that key already, it keeps. */
export async function subscribeHere(key: string): Promise<PushSubscription> {
  await navigator.serviceWorker.register(WORKER, { scope: '/', updateViaCache: 'none' });
  const { pushManager } = await navigator.serviceWorker.ready;
  const has = await pushManager.getSubscription();
  if (has && sameKey(has, key)) return has;
  await has?.unsubscribe();
  return pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytesOf(key) });
}

/** Whether a subscription is for the panel's key. */
export function sameKey(has: PushSubscription, key: string): boolean {
  const held = has.options.applicationServerKey;
  if (!held) return false;
  const [a, b] = [new Uint8Array(held), bytesOf(key)];
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Ends what this browser has, and forgets for whom. The panel forgets its part by itself. */
export async function forgetHere(): Promise<void> {
  keep(null);
  await (await subscriptionHere())?.unsubscribe();
}

/** Bytes of a base64url text. */
function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  const raw = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}
