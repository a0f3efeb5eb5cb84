import { Button, Checkbox, Skeleton, TextInput } from '@mantine/core';
import { IconChevronDown } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useId, useState } from 'react';
import { setWebhookKind } from '@/actions/notices';
import { addWebhook, removeWebhook, testWebhook } from '@/api/notices';
import type { Webhook, WebhookKind } from '@/api/views';
import { webhooksQuery } from '@/stores/queries';
import { t, tMaybe } from '@/texts';
import { Ago } from './Ago';
import { Card } from './Card';
import { Confirm } from './Confirm';
import { Failure } from './Failure';
import classes from './NoticesCard.module.css';
import { toastDone } from './toast';
import { useAct } from './useAct';

/** Discord webhooks: one's own, or with an organisation of that one's. */
export function WebhooksCard({ org }: { org: string }) {
  const hooks = useQuery(webhooksQuery(org));
  const list = hooks.data?.items;
  return (
    <Card title={t('webhooks.title')} lead={org ? t('webhooks.orgLead') : t('webhooks.ownLead')}>
      {list ? (
        <>
          {list.length === 0 && <p className="muted">{t('webhooks.none')}</p>}
          <ul className={classes.list}>
            {list.map((one) => (
              <Row key={one.id} org={org} one={one} kinds={hooks.data?.kinds ?? []} />
            ))}
          </ul>
          <Add org={org} />
        </>
      ) : hooks.error ? (
        <Failure cause={hooks.error} retry={() => void hooks.refetch()} />
      ) : (
        <Skeleton height={90} radius={8} />
      )}
    </Card>
  );
}

function useAgain(org: string) {
  const client = useQueryClient();
  return () => client.invalidateQueries({ queryKey: webhooksQuery(org).queryKey });
}

function Row({ org, one, kinds }: { org: string; one: Webhook; kinds: WebhookKind[] }) {
  const again = useAgain(org);
  const [open, setOpen] = useState(false);
  const [asking, setAsking] = useState(false);
  const part = useId();
  const chosen = kinds.filter((k) => one.kinds?.[k.kind]).length;
  const test = useAct(async () => {
    await testWebhook(org, one.id);
    toastDone(t('webhooks.tested'));
    await again();
  });
  const remove = useAct(async () => {
    await removeWebhook(org, one.id);
    setAsking(false);
    toastDone(t('webhooks.removed', { name: one.name }));
    await again();
  });
  return (
    <li className={classes.row} data-testid="webhook">
      <div>
        <strong>{one.name}</strong>
        <p>
          {one.problem ||
            (one.used_at ? (
              <>
                {t('webhooks.used')} <Ago at={one.used_at} />
              </>
            ) : (
              t('webhooks.unused')
            ))}
        </p>
      </div>
      <Button
        variant="default"
        size="compact-sm"
        loading={test.busy}
        aria-label={t('webhooks.testOf', { name: one.name })}
        onClick={() => void test.run()}
      >
        {t('webhooks.test')}
      </Button>
      <Button
        variant="subtle"
        color="red"
        size="compact-sm"
        aria-label={t('webhooks.removeOf', { name: one.name })}
        onClick={() => setAsking(true)}
      >
        {t('webhooks.remove')}
      </Button>
      {kinds.length > 0 && (
        <button
          type="button"
          className={classes.fold}
          aria-expanded={open}
          aria-controls={part}
          aria-label={t('webhooks.kindsOf', { name: one.name, some: chosen, all: kinds.length })}
          onClick={() => setOpen(!open)}
        >
          {t('webhooks.kinds', { some: chosen, all: kinds.length })}
          <IconChevronDown size={15} aria-hidden="true" />
        </button>
      )}
      {kinds.length > 0 && (
        <div id={part} className={classes.kinds} hidden={!open}>
          {open && <Kinds org={org} one={one} kinds={kinds} />}
        </div>
      )}
      <Confirm
        opened={asking}
        onClose={() => setAsking(false)}
        title={t('webhooks.removeTitle', { name: one.name })}
        confirm={t('webhooks.remove')}
        busy={remove.busy}
        onConfirm={() => void remove.run()}
      >
        {t('webhooks.removeWhat')}
      </Confirm>
    </li>
  );
}

/** What an organisation's webhook is sent. */
function Kinds({ org, one, kinds }: { org: string; one: Webhook; kinds: WebhookKind[] }) {
  const client = useQueryClient();
  const { run } = useAct((kind: string, on: boolean) => setWebhookKind(client, org, one.id, kind, on));
  const groups = [...new Set(kinds.map((k) => k.group))];
  return groups.map((group) => (
    <fieldset key={group}>
      <legend>{tMaybe(`notices.group.${group}`) ?? group}</legend>
      {kinds
        .filter((k) => k.group === group)
        .map((k) => (
          <Checkbox
            key={k.kind}
            label={k.title}
            checked={one.kinds?.[k.kind] ?? false}
            onChange={(e) => void run(k.kind, e.currentTarget.checked)}
          />
        ))}
    </fieldset>
  ));
}

function Add({ org }: { org: string }) {
  const again = useAgain(org);
  const [name, setName] = useState('');
  const [url, setUrl] = useState('');
  const [faults, setFaults] = useState<{ name?: string; url?: string }>({});
  const { run, busy } = useAct(
    async () => {
      setFaults({});
      await addWebhook(org, name.trim(), url.trim());
      toastDone(t('webhooks.added', { name: name.trim() }));
      setName('');
      setUrl('');
      await again();
    },
    (error) => {
      const found = { name: error.fields.name?.message, url: error.fields.url?.message };
      setFaults(found);
      return Boolean(found.name || found.url);
    },
  );
  return (
    <form
      className={classes.form}
      onSubmit={(e) => {
        e.preventDefault();
        void run();
      }}
    >
      <TextInput
        label={t('webhooks.name')}
        value={name}
        error={faults.name}
        onChange={(e) => setName(e.currentTarget.value)}
      />
      <TextInput
        label={t('webhooks.url')}
        description={t('webhooks.urlHint')}
        type="url"
        autoComplete="off"
        value={url}
        error={faults.url}
        onChange={(e) => setUrl(e.currentTarget.value)}
      />
      <Button type="submit" loading={busy} disabled={!name.trim() || !url.trim()}>
        {t('webhooks.add')}
      </Button>
    </form>
  );
}
