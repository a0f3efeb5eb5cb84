import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { currentQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { LeaveRow } from '@/ui/people/LeaveRow';
import classes from '@/ui/people/people.module.css';
import { TransferRow } from '@/ui/people/TransferRow';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/settings/danger')({ component: Danger });

function Danger() {
  const { org } = Route.useParams();
  const tenant = useQuery(currentQuery(org)).data?.tenant;
  const may = usePermissions(org);
  useTitle(`${t('org.danger')} · ${t('org.title')}`);
  if (!tenant) return null;
  return (
    <div className={classes.stack}>
      <Card title={t('org.danger')} tone="danger">
        {may.can('tenant.transfer') && <TransferRow org={org} tenant={tenant} me={session()?.id ?? ''} />}
        <LeaveRow org={org} tenant={tenant} />
      </Card>
    </div>
  );
}
