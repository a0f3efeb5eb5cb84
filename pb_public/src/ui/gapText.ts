import type { Gap } from '@/stores/lines';
import { t } from '@/texts';

/** What is said in the place of lines that are not to be had. */
export const gapText = (gap: Gap): string =>
  gap.to === 0 ? t('console.gapUnknown') : t('console.gap', { count: gap.to - gap.from + 1 });
