// Changes one's second factors. What changed is asked for again: other sessions may have ended with it.
import type { QueryClient } from '@tanstack/react-query';
import {
  addPasskey,
  confirmTotp,
  disableTotp,
  passkeyOptions,
  prove,
  proveOptions,
  removePasskey,
  renamePasskey,
  renewBackupCodes,
} from '@/api/factors';
import type { Passkey, Shown } from '@/api/views';
import { factorsQuery, sessionsQuery } from '@/stores/queries';
import { askPasskey, makePasskey } from './passkeys';

/** What somebody typed, as the panel wants it: six digits are an authenticator's, anything else a backup code. */
export function shownBy(text: string): Shown {
  const plain = text.replace(/\s/g, '');
  return /^\d{6}$/.test(plain) ? { code: plain } : { backup_code: text.trim() };
}

async function changed(client: QueryClient): Promise<void> {
  await Promise.all([
    client.invalidateQueries({ queryKey: factorsQuery.queryKey }),
    client.invalidateQueries({ queryKey: sessionsQuery.queryKey }),
    client.invalidateQueries({ queryKey: ['org'] }), // one that held us at its door may let us in now, or no more
  ]);
}

/** Answers the backup codes; none when there were some before. Throws ApiError. */
export async function switchOnTotp(client: QueryClient, code: string): Promise<string[]> {
  const codes = await confirmTotp(code.replace(/\s/g, ''));
  await changed(client);
  return codes;
}

export async function switchOffTotp(client: QueryClient, text: string): Promise<void> {
  await disableTotp(shownBy(text));
  await changed(client);
}

export async function newBackupCodes(client: QueryClient, text: string): Promise<string[]> {
  const codes = await renewBackupCodes(shownBy(text));
  await changed(client);
  return codes;
}

/** Answers the backup codes that come with the first second factor. Throws ApiError. */
export async function makeOnePasskey(client: QueryClient, name: string): Promise<string[]> {
  const answer = await makePasskey(await passkeyOptions());
  const { backup_codes } = await addPasskey({ ...answer, name: name.trim() });
  await changed(client);
  return backup_codes;
}

export async function nameOnePasskey(client: QueryClient, id: string, name: string): Promise<Passkey> {
  const passkey = await renamePasskey(id, name.trim());
  await client.invalidateQueries({ queryKey: factorsQuery.queryKey });
  return passkey;
}

export async function takeAwayPasskey(client: QueryClient, id: string): Promise<void> {
  await removePasskey(id);
  await changed(client);
}

export const proveByPassword = (password: string) => prove({ password });
export const proveByText = (text: string) => prove(shownBy(text));
export const proveByPasskey = async () => prove({ passkey: await askPasskey(await proveOptions()) });
