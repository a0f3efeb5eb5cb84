import { type ErrorComponentProps, useRouter } from '@tanstack/react-router';
import { useEffect } from 'react';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { Door } from './Door';
import { Failure } from './Failure';

/** When the start could not find out where to go. */
export function FailedStart({ error }: ErrorComponentProps) {
  const router = useRouter();
  useEffect(() => {
    if (!session()) void router.navigate({ to: '/sign-in', search: { ended: true } });
  }, [router]);
  return (
    <Door title={t('app.name')}>
      <Failure cause={error} retry={() => void router.invalidate()} />
    </Door>
  );
}
