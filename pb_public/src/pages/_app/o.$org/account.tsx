import { createFileRoute, Link, Outlet } from '@tanstack/react-router';
import { t } from '@/texts';
import { PageHead } from '@/ui/PageHead';
import { Tabs, tabLink } from '@/ui/Tabs';

export const Route = createFileRoute('/_app/o/$org/account')({ component: Account });

/** One's own account; its parts are pages. */
function Account() {
  const props = { ...tabLink, params: { org: Route.useParams().org } };
  return (
    <>
      <PageHead title={t('account.title')} />
      <Tabs label={t('account.tabs')}>
        <Link to="/o/$org/account" {...props}>
          {t('account.profile')}
        </Link>
        <Link to="/o/$org/account/security" {...props}>
          {t('account.security')}
        </Link>
        <Link to="/o/$org/account/notices" {...props}>
          {t('account.notices')}
        </Link>
        <Link to="/o/$org/account/keys" {...props}>
          {t('account.keys')}
        </Link>
      </Tabs>
      <Outlet />
    </>
  );
}
