// Makes an account, signs in with it and has the confirmation mail sent.
import { pb } from '@/api/client';
import { ApiError, asApiError } from '@/api/error';
import { t } from '@/texts';

export interface SignUp {
  name: string;
  email: string;
  password: string;
}

/** `mail`: whether the confirmation is sent. Throws ApiError, with `fields.email` when the address has an account already. */
export async function signUp(who: SignUp, mail = true): Promise<void> {
  const email = who.email.trim();
  try {
    await pb
      .collection('users')
      .create({ name: who.name.trim(), email, password: who.password, passwordConfirm: who.password });
  } catch (cause) {
    throw taken(asApiError(cause));
  }
  try {
    await pb.collection('users').authWithPassword(email, who.password);
    if (mail) await pb.collection('users').requestVerification(email);
  } catch (cause) {
    throw asApiError(cause);
  }
}

function taken(error: ApiError): ApiError {
  const fault = error.fields.email;
  if (fault?.code !== 'validation_not_unique') return error;
  const fields = { ...error.fields, email: { code: 'taken', message: t('error.taken') } };
  return new ApiError(error.status, 'taken', t('error.taken'), fields, error.requestId);
}
