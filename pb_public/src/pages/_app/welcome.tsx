import { Button, TextInput } from '@mantine/core';
import { IconBuilding } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute, Link, useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { createTenant } from '@/actions/createTenant';
import { accountQuery, tenantsQuery } from '@/stores/queries';
import { checkName, checkSlug, slugOf } from '@/stores/rules';
import { t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { Notice } from '@/ui/Card';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';
import { useFirstFault } from '@/ui/useFirstFault';
import { useSignOut } from '@/ui/useSignOut';

export const Route = createFileRoute('/_app/welcome')({ component: Welcome });

function Welcome() {
  const client = useQueryClient();
  const navigate = useNavigate();
  const signOut = useSignOut();
  const account = useQuery(accountQuery).data;
  const first = (useQuery(tenantsQuery).data ?? []).length === 0;
  const [name, setName] = useState('');
  const [slug, setSlug] = useState<string | null>(null); // null: follows the name
  const [errors, setErrors] = useState({ name: '', slug: '' });
  const address = slug ?? slugOf(name);
  const form = useFirstFault(errors);
  const { run, busy } = useAct(
    async () => {
      const faults = { name: checkName(name), slug: address ? checkSlug(address) : '' };
      setErrors(faults);
      if (faults.name || faults.slug) return;
      const tenant = await createTenant(client, name, address);
      await navigate({ to: '/o/$org/servers', params: { org: tenant.slug } });
    },
    (error) => {
      setErrors({ name: error.fields.name?.message ?? '', slug: error.fields.slug?.message ?? '' });
      return Boolean(error.fields.name || error.fields.slug);
    },
  );
  return (
    <Door
      title={first ? t('welcome.title') : t('welcome.another')}
      lead={t('welcome.lead')}
      icon={<IconBuilding size={24} aria-hidden="true" />}
      foot={
        first ? (
          <>
            <Link to="/account">{t('account.title')}</Link>{' '}
            <Button variant="subtle" onClick={signOut}>
              {t('action.signOut')}
            </Button>
          </>
        ) : (
          <Link to="/">{t('action.back')}</Link>
        )
      }
    >
      {account?.verified === false ? (
        <>
          <Notice tone="attention">{t('welcome.unverified')}</Notice>
          <ButtonLink to="/check-mail" size="md" fullWidth>
            {t('frame.unverifiedAction')}
          </ButtonLink>
        </>
      ) : (
        <form
          ref={form}
          noValidate
          onSubmit={(e) => {
            e.preventDefault();
            void run();
          }}
        >
          <TextInput
            label={t('welcome.name')}
            description={t('welcome.nameHint')}
            autoComplete="organization"
            autoFocus
            value={name}
            error={errors.name || undefined}
            onChange={(e) => setName(e.currentTarget.value)}
          />
          <TextInput
            label={t('welcome.slug')}
            description={t('welcome.slugHint')}
            autoComplete="off"
            spellCheck={false}
            value={address}
            error={errors.slug || undefined}
            onChange={(e) => setSlug(e.currentTarget.value)}
          />
          <Button type="submit" size="md" loading={busy} fullWidth>
            {t('welcome.create')}
          </Button>
        </form>
      )}
    </Door>
  );
}
