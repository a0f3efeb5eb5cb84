import { useCallback, useRef, useState } from 'react';
import { type ApiError, asApiError } from '@/api/error';
import { toastError } from './toast';

/**
 * One running action of a button or form: no second one while it runs. An error goes to `failed`; when
 * that returns false, or is missing, it is shown in the corner.
 */
export function useAct<A extends unknown[]>(
  work: (...args: A) => Promise<void>,
  failed?: (error: ApiError) => boolean,
) {
  const [busy, setBusy] = useState(false);
  const running = useRef(false);
  const latest = useRef({ work, failed });
  latest.current = { work, failed };
  const run = useCallback(async (...args: A) => {
    if (running.current) return;
    running.current = true;
    setBusy(true);
    try {
      await latest.current.work(...args);
    } catch (cause) {
      if (!latest.current.failed?.(asApiError(cause))) toastError(cause);
    } finally {
      running.current = false;
      setBusy(false);
    }
  }, []);
  return { run, busy };
}
