// Keeps the access token good. It lives for a quarter of an hour; the refresh token beside it is in a
// cookie that no script reads.
import type PocketBase from 'pocketbase';
import { getTokenPayload } from 'pocketbase';
import { asApiError, fromBody } from './error';

/** A token that ends sooner than this is renewed before it is used. */
const EARLY_S = 60;

let running: Promise<void> | undefined;

/** Renews the token when it is about to end. Throws ApiError; a session that has ended is forgotten. */
export async function fresh(pb: PocketBase): Promise<void> {
  if (!pb.authStore.record || !endsSoon(pb.authStore.token)) return;
  await renew(pb);
}

/** Renews the token now. Who asks meanwhile waits for the same answer. */
export function renew(pb: PocketBase): Promise<void> {
  running ??= ask(pb).finally(() => {
    running = undefined;
  });
  return running;
}

function endsSoon(token: string): boolean {
  const { exp } = getTokenPayload(token);
  return typeof exp !== 'number' || exp - Date.now() / 1000 < EARLY_S;
}

async function ask(pb: PocketBase): Promise<void> {
  const before = pb.authStore.token;
  let answer: Response;
  try {
    answer = await fetch('/api/v1/account/sessions/refresh', {
      method: 'POST',
      headers: { Accept: 'application/json', 'Content-Type': 'application/json' },
      body: '{}',
      signal: AbortSignal.timeout(30_000),
    });
  } catch (cause) {
    throw asApiError(cause);
  }
  const body = await answer.json().catch(() => undefined);
  if (pb.authStore.token !== before) return; // signed out, or in again, meanwhile
  if (!answer.ok) {
    if (answer.status === 401) pb.authStore.clear();
    throw fromBody(answer.status, body, answer.headers.get('X-Request-Id') ?? '');
  }
  pb.authStore.save(body.token, body.record);
}
