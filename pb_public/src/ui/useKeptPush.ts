// Keeps push messages on in a browser where they were switched on.
import { useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';
import { keepPush } from '@/actions/push';
import { PUSH_CHANGED } from '@/stores/push';

/** Keeps this browser's subscription as the panel needs it, as long as the page is there. */
export function useKeptPush(account: string | undefined): void {
  const client = useQueryClient();
  useEffect(() => {
    const worker = typeof navigator === 'undefined' ? undefined : navigator.serviceWorker;
    if (!account || !worker) return;
    const keep = () => void keepPush(client, account).catch(() => undefined); // the next page tries again
    const told = (event: MessageEvent) => {
      if (event.data?.type === PUSH_CHANGED) keep();
    };
    keep();
    worker.addEventListener('message', told);
    return () => worker.removeEventListener('message', told);
  }, [account, client]);
}
