// What protects one's account beside the password, and the proofs that it asks for.
import { request } from './client';
import type { Factors, Passkey, Shown, TotpBegun } from './views';

/** A challenge of the panel to an authenticator; `options` is what navigator.credentials takes, as JSON. */
export interface Challenge {
  challenge: string;
  options: unknown;
}

const post = <T>(path: string, body: unknown = {}) => request<T>(`account/${path}`, { method: 'POST', body });

export const getFactors = (signal?: AbortSignal) => request<Factors>('account/factors', { signal });
export const prove = (shown: Shown | { password: string }) => post<{ proven_until: string }>('proof', shown);
export const proveOptions = () => post<Challenge>('proof/options');

export const beginTotp = () => post<TotpBegun>('totp');
export const confirmTotp = async (code: string) =>
  (await post<{ backup_codes: string[] }>('totp/confirm', { code })).backup_codes;
export const disableTotp = (shown: Shown) => request<void>('account/totp', { method: 'DELETE', body: shown });
export const renewBackupCodes = async (shown: Shown) =>
  (await post<{ backup_codes: string[] }>('backup-codes', shown)).backup_codes;

export const passkeyOptions = () => post<Challenge>('passkeys/options');
export const addPasskey = (body: { challenge: string; credential: unknown; name: string }) =>
  post<{ passkey: Passkey; backup_codes: string[] }>('passkeys', body);
export const renamePasskey = (id: string, name: string) =>
  request<Passkey>(`account/passkeys/${id}`, { method: 'PATCH', body: { name } });
export const removePasskey = (id: string) => request<void>(`account/passkeys/${id}`, { method: 'DELETE' });

export const checkpointOptions = (checkpoint: string) => post<Challenge>('checkpoint/options', { checkpoint });
export const passCheckpoint = (checkpoint: string, shown: Shown) =>
  post<{ token: string; record: Record<string, unknown> }>('checkpoint', { checkpoint, ...shown });
export const signInOptions = () => post<Challenge>('sign-in/passkey/options');
export const signInByPasskey = (answer: { challenge: string; credential: unknown }) =>
  post<{ token: string; record: Record<string, unknown> }>('sign-in/passkey', answer);
