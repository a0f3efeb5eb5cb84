import { createFileRoute, Outlet, redirect, useRouter } from '@tanstack/react-router';
import { useEffect } from 'react';
import { onSession, session } from '@/stores/session';

// Everything behind the sign-in.
export const Route = createFileRoute('/_app')({
  beforeLoad: ({ location }) => {
    if (!session()) throw redirect({ to: '/sign-in', search: { next: location.href } });
  },
  component: App,
});

function App() {
  const router = useRouter();
  useEffect(
    () =>
      onSession((now) => {
        if (!now) void router.navigate({ to: '/sign-in', search: { ended: true, next: router.state.location.href } });
      }),
    [router],
  );
  return <Outlet />;
}
