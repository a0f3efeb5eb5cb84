// Asks the browser for a passkey. Its own JSON forms of options and answers are used: no bytes are turned here.

import { ApiError } from '@/api/error';
import type { Challenge } from '@/api/factors';
import { t } from '@/texts';

interface Browser {
  parseCreationOptionsFromJSON(options: unknown): PublicKeyCredentialCreationOptions;
  parseRequestOptionsFromJSON(options: unknown): PublicKeyCredentialRequestOptions;
}

/** Whether this browser can be asked, here: it wants https, or localhost. */
export function passkeysPossible(): boolean {
  return (
    typeof PublicKeyCredential !== 'undefined' &&
    'parseRequestOptionsFromJSON' in PublicKeyCredential &&
    Boolean(navigator.credentials)
  );
}

/** Makes a passkey. Throws ApiError "passkey_cancelled" when the person, or the browser, did not want to. */
export async function makePasskey(c: Challenge) {
  const browser = PublicKeyCredential as unknown as Browser;
  return answer(c, () => navigator.credentials.create({ publicKey: browser.parseCreationOptionsFromJSON(c.options) }));
}

/** Has one of one's passkeys answer. Throws ApiError "passkey_cancelled". */
export async function askPasskey(c: Challenge) {
  const browser = PublicKeyCredential as unknown as Browser;
  return answer(c, () => navigator.credentials.get({ publicKey: browser.parseRequestOptionsFromJSON(c.options) }));
}

async function answer(c: Challenge, ask: () => Promise<Credential | null>) {
  let made: Credential | null = null;
  try {
    made = await ask();
  } catch (cause) {
    const name = cause instanceof DOMException ? cause.name : '';
    if (name === 'InvalidStateError') throw new ApiError(0, 'passkey_known', t('factor.passkeyKnown'));
    if (name === 'SecurityError') throw new ApiError(0, 'passkey_elsewhere', t('factor.passkeyElsewhere'));
  }
  if (!made) throw new ApiError(0, 'passkey_cancelled', t('factor.passkeyCancelled'));
  return { challenge: c.challenge, credential: (made as unknown as { toJSON(): unknown }).toJSON() };
}
