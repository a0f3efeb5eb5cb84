import { createFileRoute, redirect } from '@tanstack/react-router';
import { firstTenant } from '@/actions/switchTenant';
import { tenantsQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { FailedStart } from '@/ui/FailedStart';

// Where mails about the safety of an account lead: the account is shown within an organisation.
export const Route = createFileRoute('/account')({
  loader: async ({ context }) => {
    if (!session()) throw redirect({ to: '/sign-in' });
    const first = firstTenant(await context.client.fetchQuery(tenantsQuery));
    if (!first) throw redirect({ to: '/welcome' });
    throw redirect({ to: '/o/$org/account/security', params: { org: first.slug } });
  },
  errorComponent: FailedStart,
});
