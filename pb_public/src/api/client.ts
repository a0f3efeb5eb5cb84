// The one client. Everything the app asks the panel goes through `request`; PocketBase's SDK is used
// for signing in and for realtime alone.
import PocketBase, { BaseAuthStore, LocalAuthStore } from 'pocketbase';
import { ApiError, asApiError, fromBody } from './error';
import { fresh, renew } from './renew';

const REQUEST_TIMEOUT_MS = 30_000;

/** PocketBase's SDK, on the origin the page came from. */
export const pb = new PocketBase(
  typeof location === 'undefined' ? '/' : location.origin,
  storageWorks() ? new LocalAuthStore('mamba.session') : new BaseAuthStore(),
);
pb.autoCancellation(false); // each caller passes its own signal
pb.beforeSend = async (url, options) => {
  const headers = { ...options.headers };
  // The ways to sign in are asked for while a session ends: its token would be refused.
  const whoever = url.includes('/auth-methods');
  if (!whoever) await fresh(pb).catch(() => undefined); // what is asked for says what is wrong
  if (pb.authStore.token && !whoever) headers.Authorization = pb.authStore.token;
  else delete headers.Authorization;
  return { url, options: { ...options, headers } };
};

function storageWorks(): boolean {
  try {
    localStorage.setItem('mamba.probe', '1');
    localStorage.removeItem('mamba.probe');
    return true;
  } catch {
    return false; // storage is switched off: the session lasts as long as the page
  }
}

export interface Ask {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Slug or id of the organisation; sent as X-Tenant. */
  org?: string;
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  /** Same key, same answer. */
  idempotencyKey?: string;
  signal?: AbortSignal;
}

/**
 * One request to /api/v1. Throws ApiError, and nothing else. A token that is not good any more is
 * renewed once; when there is none to be had the session ends here, which sends the person to the
 * sign-in page (stores/session).
 */
export async function request<T>(path: string, ask: Ask = {}): Promise<T> {
  try {
    await fresh(pb);
    return await once<T>(path, ask);
  } catch (cause) {
    const spent = cause instanceof ApiError && cause.status === 401 && cause.code === 'session_expired';
    if (!spent || !pb.authStore.record) throw cause;
  }
  await renew(pb);
  return once<T>(path, ask);
}

async function once<T>(path: string, ask: Ask): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  if (pb.authStore.token) headers.Authorization = pb.authStore.token;
  if (ask.org) headers['X-Tenant'] = ask.org;
  if (ask.idempotencyKey) headers['Idempotency-Key'] = ask.idempotencyKey;
  if (ask.body !== undefined) headers['Content-Type'] = 'application/json';
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  try {
    const answer = await fetch(`/api/v1/${path}${search(ask.query)}`, {
      method: ask.method ?? 'GET',
      headers,
      body: ask.body === undefined ? undefined : JSON.stringify(ask.body),
      signal: ask.signal ? AbortSignal.any([ask.signal, timeout]) : timeout,
    });
    return await read<T>(answer);
  } catch (cause) {
    if (ask.signal?.aborted) throw cause; // the asker went away; Query knows its own signal
    const error = asApiError(cause);
    if (error.status === 401 && error.code !== 'session_expired') pb.authStore.clear();
    throw error;
  }
}

async function read<T>(answer: Response): Promise<T> {
  const requestId = answer.headers.get('X-Request-Id') ?? '';
  const text = await answer.text();
  let body: unknown;
  try {
    body = text === '' ? undefined : JSON.parse(text);
  } catch {
    if (answer.ok) throw new ApiError(answer.status, 'unexpected', asApiError(null).message, {}, requestId);
  }
  if (!answer.ok) throw fromBody(answer.status, body, requestId);
  return body as T;
}

function search(query: Ask['query']): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== '') params.set(key, String(value));
  }
  const text = params.toString();
  return text && `?${text}`;
}

/** A new key for Idempotency-Key. crypto.randomUUID is missing on plain http, getRandomValues is not. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}
