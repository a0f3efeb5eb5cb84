// Signs in: with e-mail address and password, a code by mail, a provider, or a passkey. Who has a second factor is
// held at a checkpoint, which `passBy…` passes.
import { ClientResponseError, type RecordModel } from 'pocketbase';
import { pb } from '@/api/client';
import { ApiError, asApiError } from '@/api/error';
import { checkpointOptions, passCheckpoint, signInByPasskey, signInOptions } from '@/api/factors';
import type { Shown } from '@/api/views';
import { t } from '@/texts';
import { askPasskey } from './passkeys';

/** A sign-in that wants a second factor. */
export interface Checkpoint {
  token: string;
  expires_at: string;
  ways: ('passkey' | 'code' | 'backup_code')[];
}

/** A way to sign in through somebody else, as the operator set it. */
export interface Provider {
  name: string;
  label: string;
}

/** Which ways the operator offers beside the password. */
export async function signInWays(): Promise<{ providers: Provider[]; codes: boolean }> {
  const ways = await pb.collection('users').listAuthMethods();
  const providers = ways.oauth2.enabled ? ways.oauth2.providers : [];
  return {
    providers: providers.map((p) => ({ name: p.name, label: p.displayName || p.name })),
    codes: ways.otp.enabled,
  };
}

/** Throws ApiError; code "bad_credentials" when the two do not fit. */
export const signIn = (email: string, password: string) =>
  held(() => pb.collection('users').authWithPassword(email.trim(), password), 'error.badCredentials');

/** Sends a code; answers the id that it is used with. Says nothing of whether the address has an account. */
export async function sendCode(email: string): Promise<string> {
  try {
    return (await pb.collection('users').requestOTP(email.trim())).otpId;
  } catch (cause) {
    throw asApiError(cause);
  }
}

/** Throws ApiError; code "bad_credentials" when the code is not right, or too old. */
export const signInByCode = (id: string, code: string) =>
  held(() => pb.collection('users').authWithOTP(id, code.trim()), 'error.badMailCode');

/** Opens the provider's window. */
export const signInBy = (provider: string) =>
  held(() => pb.collection('users').authWithOAuth2({ provider }), 'error.providerFailed');

async function held(
  work: () => Promise<unknown>,
  refused: 'error.badCredentials' | 'error.badMailCode' | 'error.providerFailed',
): Promise<Checkpoint | null> {
  try {
    await work();
    return null;
  } catch (cause) {
    const found = cause instanceof ClientResponseError && cause.response.code === 'second_factor_needed';
    if (found) return cause.response.checkpoint as Checkpoint;
    const error = asApiError(cause);
    if (error.status === 400) throw new ApiError(400, 'bad_credentials', t(refused), {}, error.requestId);
    throw error;
  }
}

const begin = (answer: { token: string; record: Record<string, unknown> }) =>
  pb.authStore.save(answer.token, answer.record as unknown as RecordModel);

/** Throws ApiError; code "checkpoint_ended" when one has to begin again. */
export async function passCheckpointBy(checkpoint: string, shown: Shown): Promise<void> {
  begin(await passCheckpoint(checkpoint, shown));
}

export async function passCheckpointByPasskey(checkpoint: string): Promise<void> {
  const passkey = await askPasskey(await checkpointOptions(checkpoint));
  begin(await passCheckpoint(checkpoint, { passkey }));
}

/** Instead of the password. Throws ApiError. */
export async function signInWithPasskey(): Promise<void> {
  begin(await signInByPasskey(await askPasskey(await signInOptions())));
}
