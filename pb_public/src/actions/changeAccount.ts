// Changes how one signs in: the address and the password.
import { pb } from '@/api/client';
import { asApiError } from '@/api/error';
import { renew } from '@/api/renew';

/** Sends a link to the new address; nothing changes before it is opened. Throws ApiError. */
export async function changeEmail(email: string): Promise<void> {
  try {
    await pb.collection('users').requestEmailChange(email.trim());
  } catch (cause) {
    throw asApiError(cause);
  }
}

/** Ends all other sessions; this one goes on with a new token. Throws ApiError, with `fields.oldPassword` for a wrong one. */
export async function changePassword(id: string, old: string, next: string): Promise<void> {
  try {
    await pb.collection('users').update(id, { oldPassword: old, password: next, passwordConfirm: next });
  } catch (cause) {
    throw asApiError(cause);
  }
  await renew(pb);
}
