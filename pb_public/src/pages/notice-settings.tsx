import { createFileRoute, redirect } from '@tanstack/react-router';
import { firstTenant } from '@/actions/switchTenant';
import { tenantsQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { FailedStart } from '@/ui/FailedStart';

// Where mails lead for what one is told of.
export const Route = createFileRoute('/notice-settings')({
  loader: async ({ context }) => {
    if (!session()) throw redirect({ to: '/sign-in' });
    const first = firstTenant(await context.client.fetchQuery(tenantsQuery));
    if (!first) throw redirect({ to: '/welcome' });
    throw redirect({ to: '/o/$org/account/notices', params: { org: first.slug } });
  },
  errorComponent: FailedStart,
});
