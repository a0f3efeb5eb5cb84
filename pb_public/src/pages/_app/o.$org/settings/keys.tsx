import { createFileRoute } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { KeysCard } from '@/ui/keys/KeysCard';
import classes from '@/ui/people/roles.module.css';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/settings/keys')({ component: Keys });

function Keys() {
  const { org } = Route.useParams();
  const manage = usePermissions(org).can('key.manage');
  useTitle(`${t('keys.title')} · ${t('org.title')}`);
  return (
    <div className={classes.page}>
      {manage ? (
        <KeysCard org={org} />
      ) : (
        <Card title={t('keys.title')}>
          <p className="muted">{t('keys.closed')}</p>
        </Card>
      )}
    </div>
  );
}
