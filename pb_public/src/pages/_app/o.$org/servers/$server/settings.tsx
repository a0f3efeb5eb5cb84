import { Button, Skeleton, TextInput } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute, useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { deleteServer } from '@/actions/deleteServer';
import { powerServer } from '@/actions/powerServer';
import { updateServer } from '@/actions/updateServer';
import type { Game } from '@/api/blueprints';
import type { ServerDetail } from '@/api/views';
import { placeFaults, variableFaults } from '@/stores/draft';
import { usePermissions } from '@/stores/permissions';
import { currentQuery, gameQuery, serverQuery } from '@/stores/queries';
import { checkName } from '@/stores/rules';
import { clamp, left, sliders } from '@/stores/sizing';
import { t } from '@/texts';
import { Card, Notice } from '@/ui/Card';
import { Confirm } from '@/ui/Confirm';
import { Failure } from '@/ui/Failure';
import { MuteCard } from '@/ui/MuteCard';
import { SizeFields } from '@/ui/SizeFields';
import { toastDone, toastError } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { useTitle } from '@/ui/useTitle';
import { VariableField } from '@/ui/VariableField';
import { Folded } from '@/ui/wizard/SettingsStep';
import classes from '../server.module.css';

export const Route = createFileRoute('/_app/o/$org/servers/$server/settings')({ component: Settings });

function Settings() {
  const { org, server: id } = Route.useParams();
  const server = useQuery(serverQuery(org, id)).data;
  const game = useQuery({ ...gameQuery(org, server?.blueprint.slug ?? ''), enabled: server !== undefined });
  const may = usePermissions(org);
  useTitle(`${t('server.settings')} · ${server?.name ?? ''}`);
  if (!server) return null;
  const update = may.can('server.update') && server.status !== 'DELETING';
  return (
    <div className={classes.stack}>
      {!may.can('server.update') && <Notice tone="working">{t('settings.readOnly')}</Notice>}
      <NameCard server={server} org={org} disabled={!update} />
      {game.data ? (
        <>
          <SizeCard server={server} game={game.data} org={org} disabled={!update} />
          <VariablesCard server={server} game={game.data} org={org} disabled={!update} />
        </>
      ) : game.error ? (
        <Failure cause={game.error} retry={() => void game.refetch()} />
      ) : (
        <Skeleton height={260} radius={12} />
      )}
      <MuteCard server={server} />
      <Danger server={server} org={org} />
    </div>
  );
}

interface Part {
  server: ServerDetail;
  org: string;
  disabled: boolean;
}

function NameCard({ server, org, disabled }: Part) {
  const client = useQueryClient();
  const [name, setName] = useState(server.name);
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      const found = checkName(name);
      setFault(found);
      if (found) return;
      const before = server.name;
      await updateServer(client, org, server.id, { name: name.trim() });
      toastDone(t('settings.renamed', { name: name.trim() }), () => {
        setName(before);
        updateServer(client, org, server.id, { name: before }).catch(toastError);
      });
    },
    (error) => {
      setFault(error.fields.name?.message ?? '');
      return Boolean(error.fields.name);
    },
  );
  return (
    <Card title={t('settings.general')}>
      <form
        className={classes.inline}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <TextInput
          label={t('settings.name')}
          value={name}
          disabled={disabled}
          error={fault || undefined}
          autoComplete="off"
          onChange={(e) => setName(e.currentTarget.value)}
        />
        {!disabled && (
          <Button type="submit" size="md" loading={busy} disabled={name.trim() === server.name}>
            {t('action.save')}
          </Button>
        )}
      </form>
    </Card>
  );
}

function SizeCard({ server, game, org, disabled }: Part & { game: Game }) {
  const client = useQueryClient();
  const current = useQuery(currentQuery(org)).data;
  const [draft, setDraft] = useState(server.limits);
  const [errors, setErrors] = useState<Record<string, string>>({});
  // What this server has now is free for its own new size.
  const rest = current
    ? left(current.quota, current.used)
    : { servers: 0, memory_mib: 0, cpu_millicores: 0, disk_mib: 0 };
  const free = {
    ...rest,
    memory_mib: rest.memory_mib + server.limits.memory_mib,
    cpu_millicores: rest.cpu_millicores + server.limits.cpu_millicores,
    disk_mib: rest.disk_mib + server.limits.disk_gib * 1024,
  };
  const range = sliders(game, free, []);
  const limits = clamp(draft, range);
  const { run, busy } = useAct(
    async () => {
      setErrors({});
      await updateServer(client, org, server.id, { limits });
      toastDone(t('settings.saved'));
    },
    (error) => {
      const found = placeFaults(error, game);
      setErrors(found.limits);
      return Object.keys(found.limits).length > 0;
    },
  );
  const changed = JSON.stringify(limits) !== JSON.stringify(clamp(server.limits, range));
  return (
    <Card title={t('settings.size')} lead={t('settings.sizeLead')}>
      <SizeFields game={game} sliders={range} limits={limits} errors={errors} disabled={disabled} onChange={setDraft} />
      {!disabled && (
        <SaveRow busy={busy} changed={changed} onSave={() => void run()} onReset={() => setDraft(server.limits)} />
      )}
    </Card>
  );
}

function VariablesCard({ server, game, org, disabled }: Part & { game: Game }) {
  const client = useQueryClient();
  const has = (key: string) => server.variables?.[key];
  // Secrets come as null: their fields start empty and an empty field keeps them.
  const held = Object.fromEntries(
    game.variables.map((v) => [v.key, has(v.key) ?? (v.kind === 'secret' ? '' : v.preset)]),
  );
  const [values, setValues] = useState<Record<string, string>>(held);
  const [errors, setErrors] = useState<Record<string, string>>({});
  const kept = (key: string) => has(key) === null;
  const changed = game.variables.filter((v) => v.editable && (values[v.key] ?? '') !== held[v.key]);
  const { run, busy } = useAct(
    async () => {
      const found = variableFaults(changed, values);
      setErrors(found);
      if (Object.keys(found).length > 0) return;
      const variables = Object.fromEntries(changed.map((v) => [v.key, values[v.key] ?? '']));
      await updateServer(client, org, server.id, { variables });
      setValues((all) => ({
        ...all,
        ...Object.fromEntries(changed.filter((v) => v.kind === 'secret').map((v) => [v.key, ''])),
      }));
      toastDone(t('settings.saved'));
    },
    (error) => {
      const found = placeFaults(error, game);
      setErrors(found.variables);
      return Object.keys(found.variables).length > 0;
    },
  );
  const fields = (list: Game['variables']) =>
    list.map((v) => (
      <VariableField
        key={v.key}
        variable={v}
        value={values[v.key] ?? ''}
        error={errors[v.key]}
        kept={kept(v.key)}
        disabled={disabled}
        onChange={(value) => setValues({ ...values, [v.key]: value })}
      />
    ));
  const advanced = game.variables.filter((v) => !v.basic);
  return (
    <Card
      title={t('settings.variables')}
      lead={game.variables.length > 0 ? t('settings.variablesLead') : t('settings.none')}
    >
      <form
        noValidate
        className={classes.variables}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        {fields(game.variables.filter((v) => v.basic))}
        <Folded count={advanced.length} open={advanced.some((v) => errors[v.key])}>
          <div className={classes.variables}>{fields(advanced)}</div>
        </Folded>
        {!disabled && game.variables.length > 0 && (
          <SaveRow busy={busy} changed={changed.length > 0} onReset={() => setValues(held)} />
        )}
      </form>
    </Card>
  );
}

function SaveRow({
  busy,
  changed,
  onSave,
  onReset,
}: {
  busy: boolean;
  changed: boolean;
  onSave?: () => void;
  onReset: () => void;
}) {
  return (
    <div className={classes.save}>
      <Button type={onSave ? 'button' : 'submit'} loading={busy} disabled={!changed} onClick={onSave}>
        {t('action.save')}
      </Button>
      {changed && (
        <Button variant="subtle" onClick={onReset}>
          {t('action.reset')}
        </Button>
      )}
    </div>
  );
}

function Danger({ server, org }: { server: ServerDetail; org: string }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const may = usePermissions(org);
  const [asking, setAsking] = useState<'delete' | 'reinstall' | null>(null);
  const { run, busy } = useAct(async (what: 'delete' | 'reinstall') => {
    if (what === 'delete') {
      await deleteServer(client, org, server.id);
      toastDone(t('settings.deleting', { name: server.name }));
      await navigate({ to: '/o/$org/servers', params: { org } });
    } else {
      await powerServer(client, org, server.id, 'reinstall');
      await navigate({ to: '/o/$org/servers/$server/install', params: { org, server: server.id } });
    }
  });
  const remove = may.can('server.delete') && server.status !== 'DELETING';
  const reinstall = may.actions(server).includes('reinstall');
  if (!remove && !reinstall) return null;
  return (
    <Card title={t('settings.danger')} tone="danger">
      {reinstall && (
        <div className={classes.danger}>
          <div>
            <h3>{t('settings.reinstall')}</h3>
            <p className="muted">{t('settings.reinstallLead')}</p>
          </div>
          <Button variant="default" onClick={() => setAsking('reinstall')}>
            {t('settings.reinstall')}
          </Button>
        </div>
      )}
      {remove && (
        <div className={classes.danger}>
          <div>
            <h3>{t('settings.delete')}</h3>
            <p className="muted">{t('settings.deleteLead')}</p>
          </div>
          <Button color="red" onClick={() => setAsking('delete')}>
            {t('settings.delete')}
          </Button>
        </div>
      )}
      <Confirm
        opened={asking === 'delete'}
        onClose={() => setAsking(null)}
        title={t('settings.deleteTitle', { name: server.name })}
        confirm={t('settings.delete')}
        typed={server.name}
        busy={busy}
        onConfirm={() => void run('delete')}
      >
        {server.address ? t('settings.deleteWhat', { address: server.address }) : t('settings.deleteWhatNoAddress')}
      </Confirm>
      <Confirm
        opened={asking === 'reinstall'}
        onClose={() => setAsking(null)}
        title={t('settings.reinstallTitle', { name: server.name })}
        confirm={t('settings.reinstall')}
        busy={busy}
        onConfirm={() => void run('reinstall')}
      >
        {t('settings.reinstallLead')}
      </Confirm>
    </Card>
  );
}
