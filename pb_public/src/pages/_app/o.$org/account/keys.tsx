import { createFileRoute } from '@tanstack/react-router';
import { t } from '@/texts';
import { KeysCard } from '@/ui/keys/KeysCard';
import { useTitle } from '@/ui/useTitle';
import classes from '../account.module.css';

export const Route = createFileRoute('/_app/o/$org/account/keys')({ component: Keys });

/** What one's own programs sign in with. */
function Keys() {
  useTitle(`${t('account.keys')} · ${t('account.title')}`);
  return (
    <div className={classes.stack}>
      <KeysCard org="" />
    </div>
  );
}
