import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { currentQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { DeleteRow } from '@/ui/people/DeleteRow';
import { ExportCard } from '@/ui/people/ExportCard';
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
      {may.can('tenant.export') && <ExportCard org={org} />}
      <Card title={t('org.danger')} tone="danger">
        {may.can('tenant.transfer') && tenant.status === 'ACTIVE' && (
          <TransferRow org={org} tenant={tenant} me={session()?.id ?? ''} />
        )}
        {(tenant.role !== 'OWNER' || tenant.status === 'ACTIVE') && <LeaveRow org={org} tenant={tenant} />}
        {may.can('tenant.delete') && <DeleteRow org={org} tenant={tenant} />}
      </Card>
    </div>
  );
}
