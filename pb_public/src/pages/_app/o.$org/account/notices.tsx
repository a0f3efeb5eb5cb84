import { createFileRoute } from '@tanstack/react-router';
import { t } from '@/texts';
import { NoticesCard } from '@/ui/NoticesCard';
import { PushCard } from '@/ui/PushCard';
import { useTitle } from '@/ui/useTitle';
import { WebhooksCard } from '@/ui/WebhooksCard';
import classes from '../account.module.css';

export const Route = createFileRoute('/_app/o/$org/account/notices')({ component: Notices });

/** What one is told of, and where. */
function Notices() {
  useTitle(`${t('account.notices')} · ${t('account.title')}`);
  return (
    <div className={classes.stack}>
      <NoticesCard />
      <PushCard />
      <WebhooksCard org="" />
    </div>
  );
}
