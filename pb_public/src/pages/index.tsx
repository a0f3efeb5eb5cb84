import { createFileRoute, redirect } from '@tanstack/react-router';
import { firstTenant } from '@/actions/switchTenant';
import { tenantsQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { FailedStart } from '@/ui/FailedStart';

// The start is never shown: it leads to where the person's work is.
export const Route = createFileRoute('/')({
  loader: async ({ context }) => {
    if (!session()) throw redirect({ to: '/sign-in' });
    const first = firstTenant(await context.client.fetchQuery({ ...tenantsQuery, staleTime: 0 }));
    if (!first) throw redirect({ to: '/welcome' });
    throw redirect({ to: '/o/$org/servers', params: { org: first.slug } });
  },
  errorComponent: FailedStart,
});
