import { createRootRouteWithContext, Outlet } from '@tanstack/react-router';
import { lazy, Suspense } from 'react';
import type { AppContext } from '@/stores/context';

export const Route = createRootRouteWithContext<AppContext>()({ component: Root });

// No page waits for it: what is said before it is there is shown once it is.
const Notifications = lazy(() => import('@mantine/notifications').then((m) => ({ default: m.Notifications })));

/** Every page, and the corner for short messages: whoever is not signed in is told what went wrong there, too. */
function Root() {
  return (
    <>
      <Outlet />
      <Suspense>
        <Notifications position="bottom-right" limit={4} />
      </Suspense>
    </>
  );
}
