import { Button, Switch, TextInput } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { useState } from 'react';
import { saveTenant } from '@/actions/saveTenant';
import type { Tenant } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { currentQuery } from '@/stores/queries';
import { checkName, checkSlug } from '@/stores/rules';
import { t } from '@/texts';
import { Card, Notice } from '@/ui/Card';
import { toastDone, toastError } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { useTitle } from '@/ui/useTitle';
import { WebhooksCard } from '@/ui/WebhooksCard';
import classes from '../servers/server.module.css';

export const Route = createFileRoute('/_app/o/$org/settings/')({ component: General });

function General() {
  const { org } = Route.useParams();
  const tenant = useQuery(currentQuery(org)).data?.tenant;
  const update = usePermissions(org).can('tenant.update');
  useTitle(`${t('org.general')} · ${t('org.title')}`);
  if (!tenant) return null;
  return (
    <div className={classes.stack}>
      {!update && tenant.status === 'ACTIVE' && <Notice tone="working">{t('org.readOnly')}</Notice>}
      <NameCard org={org} tenant={tenant} disabled={!update} />
      <SlugCard org={org} tenant={tenant} disabled={!update} />
      {update && <WebhooksCard org={org} />}
      <FactorCard org={org} tenant={tenant} disabled={!update} />
    </div>
  );
}

interface Part {
  org: string;
  tenant: Tenant;
  disabled: boolean;
}

function NameCard({ org, tenant, disabled }: Part) {
  const client = useQueryClient();
  const [name, setName] = useState(tenant.name);
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      const found = checkName(name);
      setFault(found);
      if (found) return;
      const before = tenant.name;
      await saveTenant(client, org, { name: name.trim() });
      toastDone(t('org.renamed', { name: name.trim() }), () => {
        setName(before);
        saveTenant(client, org, { name: before }).catch(toastError);
      });
    },
    (error) => {
      setFault(error.fields.name?.message ?? '');
      return Boolean(error.fields.name);
    },
  );
  return (
    <Card title={t('org.nameTitle')} lead={t('org.nameLead')}>
      <form
        className={classes.inline}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <TextInput
          label={t('org.name')}
          autoComplete="organization"
          value={name}
          disabled={disabled}
          error={fault || undefined}
          onChange={(e) => setName(e.currentTarget.value)}
        />
        {!disabled && (
          <Button type="submit" size="md" loading={busy} disabled={name.trim() === tenant.name}>
            {t('action.save')}
          </Button>
        )}
      </form>
    </Card>
  );
}

function SlugCard({ org, tenant, disabled }: Part) {
  const client = useQueryClient();
  const [slug, setSlug] = useState(tenant.slug);
  const [fault, setFault] = useState('');
  const changed = slug.trim() !== tenant.slug;
  const { run, busy } = useAct(
    async () => {
      const found = checkSlug(slug.trim());
      setFault(found);
      if (found) return;
      const saved = await saveTenant(client, org, { slug: slug.trim() });
      toastDone(t('org.moved', { path: `/o/${saved.slug}` }));
    },
    (error) => {
      setFault(error.fields.slug?.message ?? '');
      return Boolean(error.fields.slug);
    },
  );
  return (
    <Card title={t('org.slugTitle')} lead={t('org.slugLead', { path: `${location.host}/o/${tenant.slug}` })}>
      <form
        className={classes.variables}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <div className={classes.inline}>
          <TextInput
            label={t('org.slug')}
            description={t('welcome.slugHint')}
            inputWrapperOrder={['label', 'input', 'description', 'error']}
            autoComplete="off"
            spellCheck={false}
            value={slug}
            disabled={disabled}
            error={fault || undefined}
            onChange={(e) => setSlug(e.currentTarget.value)}
          />
        </div>
        {!disabled && changed && <Notice tone="attention">{t('org.slugMeans')}</Notice>}
        {!disabled && (
          <div>
            <Button type="submit" loading={busy} disabled={!changed}>
              {t('org.slugChange')}
            </Button>
          </div>
        )}
      </form>
    </Card>
  );
}

function FactorCard({ org, tenant, disabled }: Part) {
  const client = useQueryClient();
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async (on: boolean) => {
      setFault('');
      await saveTenant(client, org, { require_2fa: on });
      toastDone(t(on ? 'org.factorOn' : 'org.factorOff'));
    },
    (error) => {
      setFault(error.code === 'second_factor_required' ? error.message : '');
      return error.code === 'second_factor_required';
    },
  );
  return (
    <Card title={t('org.factorTitle')} lead={t('org.factorLead')}>
      <Switch
        label={t('org.factorSwitch')}
        checked={tenant.require_2fa === true}
        disabled={disabled || busy}
        error={fault || undefined}
        onChange={(e) => void run(e.currentTarget.checked)}
      />
    </Card>
  );
}
