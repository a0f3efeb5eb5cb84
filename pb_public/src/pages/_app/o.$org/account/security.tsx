import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { accountQuery, factorsQuery, tenantsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { PasswordCard } from '@/ui/account/PasswordCard';
import { ButtonLink } from '@/ui/ButtonLink';
import { Notice } from '@/ui/Card';
import { FactorsCard } from '@/ui/factors/FactorsCard';
import { PasskeysCard } from '@/ui/factors/PasskeysCard';
import { SessionsCard } from '@/ui/SessionsCard';
import { useTitle } from '@/ui/useTitle';
import classes from '../account.module.css';

export const Route = createFileRoute('/_app/o/$org/account/security')({ component: Security });

function Security() {
  const account = useQuery(accountQuery).data;
  useTitle(`${t('account.security')} · ${t('account.title')}`);
  return (
    <div className={classes.stack}>
      <Held />
      <FactorsCard />
      <PasskeysCard />
      {account && <PasswordCard account={account} />}
      <SessionsCard />
    </div>
  );
}

/** For whoever came here because his organisation requires a second factor: why, and the way back. */
function Held() {
  const { org } = Route.useParams();
  const tenant = useQuery(tenantsQuery).data?.find((one) => one.slug === org || one.id === org);
  const factors = useQuery(factorsQuery).data;
  if (!tenant?.require_2fa || !factors) return null;
  const name = tenant.name;
  if (!factors.totp && factors.passkeys.length === 0)
    return (
      <Notice tone="attention" title={t('factor.heldTitle', { name })}>
        {t('factor.heldLead')}
      </Notice>
    );
  return (
    <Notice tone="working" title={t('factor.heldBack', { name })}>
      <p className={classes.way}>
        <ButtonLink to="/o/$org/servers" params={{ org }}>
          {t('factor.heldGo', { name })}
        </ButtonLink>
      </p>
    </Notice>
  );
}
