// What the links in mails do. Their tokens come behind the '#' of the address, which no server sees.
import { pb } from '@/api/client';
import { asApiError } from '@/api/error';

/** The token of "#token=…", or "". */
export const tokenOf = (hash: string): string => new URLSearchParams(hash.replace(/^#/, '')).get('token') ?? '';

async function ask(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (cause) {
    throw asApiError(cause);
  }
}

export const confirmVerification = (token: string) => ask(pb.collection('users').confirmVerification(token));

export const resendVerification = (email: string) => ask(pb.collection('users').requestVerification(email));

/** Says nothing of whether the address has an account. */
export const requestReset = (email: string) => ask(pb.collection('users').requestPasswordReset(email.trim()));

export const confirmReset = (token: string, password: string) =>
  ask(pb.collection('users').confirmPasswordReset(token, password, password));

export const confirmEmail = (token: string, password: string) =>
  ask(pb.collection('users').confirmEmailChange(token, password));
