import { useEffect } from 'react';
import { t } from '@/texts';

/** Names the page in the browser's tab; the frame reads it out after a navigation. */
export function useTitle(page: string): void {
  useEffect(() => {
    document.title = page === t('app.name') ? page : t('app.title', { page });
  }, [page]);
}
