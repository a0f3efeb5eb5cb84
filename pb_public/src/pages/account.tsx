import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link, redirect } from '@tanstack/react-router';
import { firstTenant } from '@/actions/switchTenant';
import { accountQuery, tenantsQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { DeleteCard } from '@/ui/account/DeleteCard';
import { EmailCard } from '@/ui/account/EmailCard';
import { PasswordCard } from '@/ui/account/PasswordCard';
import { FailedStart } from '@/ui/FailedStart';
import { FactorsCard } from '@/ui/factors/FactorsCard';
import { PasskeysCard } from '@/ui/factors/PasskeysCard';
import { PageHead } from '@/ui/PageHead';
import { SessionsCard } from '@/ui/SessionsCard';
import { useTitle } from '@/ui/useTitle';
import classes from './account.module.css';

// Where mails about the safety of an account lead. It is shown within an organisation; who is in none has this page.
export const Route = createFileRoute('/account')({
  loader: async ({ context }) => {
    if (!session()) throw redirect({ to: '/sign-in' });
    const first = firstTenant(await context.client.fetchQuery(tenantsQuery));
    if (first) throw redirect({ to: '/o/$org/account/security', params: { org: first.slug } });
    await context.client.ensureQueryData(accountQuery);
  },
  component: Alone,
  errorComponent: FailedStart,
});

function Alone() {
  const account = useQuery(accountQuery).data;
  useTitle(t('account.title'));
  if (!account) return null;
  return (
    <main className={classes.page}>
      <PageHead title={t('account.title')} />
      <div className={classes.stack}>
        <EmailCard account={account} />
        <FactorsCard />
        <PasskeysCard />
        <PasswordCard account={account} />
        <SessionsCard />
        <DeleteCard account={account} />
        <Link to="/welcome">{t('action.back')}</Link>
      </div>
    </main>
  );
}
