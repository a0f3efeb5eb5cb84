// Signs in with e-mail address and password.
import { pb } from '@/api/client';
import { ApiError, asApiError } from '@/api/error';
import { t } from '@/texts';

/** Throws ApiError; code "bad_credentials" when the two do not fit. */
export async function signIn(email: string, password: string): Promise<void> {
  try {
    await pb.collection('users').authWithPassword(email.trim(), password);
  } catch (cause) {
    const error = asApiError(cause);
    if (error.status === 400)
      throw new ApiError(400, 'bad_credentials', t('error.badCredentials'), {}, error.requestId);
    throw error;
  }
}
