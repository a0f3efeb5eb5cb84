import { Button, NativeSelect, Skeleton, TextInput } from '@mantine/core';
import { IconChevronRight, IconDownload, IconListSearch } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { useState } from 'react';
import { saveFile } from '@/actions/saveFile';
import { type AuditQuery, exportAudit } from '@/api/audit';
import type { AuditEntry } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { auditQuery, membersQuery } from '@/stores/queries';
import { t, tMaybe } from '@/texts';
import { Ago } from '@/ui/Ago';
import classes from '@/ui/audit/audit.module.css';
import { Card } from '@/ui/Card';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { exact } from '@/ui/format';
import { useAct } from '@/ui/useAct';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/settings/audit')({ component: Audit });

// What a row can be about, as the beginnings of its actions.
const kinds = ['server.', 'console.', 'member.', 'invite.', 'role.', 'key.', 'tenant.', 'audit.'] as const;
const first: AuditQuery = { page: 1 };

function Audit() {
  const { org } = Route.useParams();
  const may = usePermissions(org).can('audit.read');
  useTitle(`${t('audit.title')} · ${t('org.title')}`);
  return (
    <div className={classes.page}>
      {may ? (
        <Log org={org} />
      ) : (
        <Card title={t('audit.title')}>
          <p className="muted">{t('audit.closed')}</p>
        </Card>
      )}
    </div>
  );
}

function Log({ org }: { org: string }) {
  const [q, setQ] = useState<AuditQuery>(first);
  const [cleared, setCleared] = useState(0);
  const log = useQuery(auditQuery(org, q));
  const take = useAct(async (format: 'csv' | 'json') => saveFile(await exportAudit(org, q, format)));
  const narrowed = Object.entries(q).some(([key, value]) => key !== 'page' && value);
  const page = log.data;
  return (
    <Card
      title={t('audit.title')}
      lead={t('audit.lead')}
      action={
        <div className={classes.actions}>
          {(['csv', 'json'] as const).map((format) => (
            <Button
              key={format}
              variant="default"
              loading={take.busy}
              leftSection={<IconDownload size={17} aria-hidden="true" />}
              onClick={() => void take.run(format)}
            >
              {t(format === 'csv' ? 'audit.csv' : 'audit.json')}
            </Button>
          ))}
        </div>
      }
    >
      <Filters key={cleared} org={org} q={q} onChange={(change) => setQ({ ...q, ...change, page: 1 })} />
      {page === undefined ? (
        log.error ? (
          <Failure cause={log.error} retry={() => void log.refetch()} />
        ) : (
          <Skeleton height={240} radius={8} />
        )
      ) : page.items.length === 0 ? (
        <Empty
          icon={<IconListSearch size={26} stroke={1.6} aria-hidden="true" />}
          title={t(narrowed ? 'audit.nothing' : 'audit.empty')}
          lead={t(narrowed ? 'audit.nothingLead' : 'audit.emptyLead')}
        >
          {narrowed && (
            <Button
              variant="default"
              onClick={() => {
                setQ(first);
                setCleared(cleared + 1); // the fields are empty again, too
              }}
            >
              {t('audit.clear')}
            </Button>
          )}
        </Empty>
      ) : (
        <>
          <div className={classes.list}>
            {page.items.map((one) => (
              <Row key={one.seq} one={one} />
            ))}
          </div>
          <nav className={classes.pages} aria-label={t('audit.pages')}>
            <span className="muted num">{t('audit.count', { count: page.total })}</span>
            <div className={classes.actions}>
              <Button variant="default" disabled={page.page <= 1} onClick={() => setQ({ ...q, page: page.page - 1 })}>
                {t('audit.newer')}
              </Button>
              <Button
                variant="default"
                disabled={page.page * page.per_page >= page.total}
                onClick={() => setQ({ ...q, page: page.page + 1 })}
              >
                {t('audit.older')}
              </Button>
            </div>
          </nav>
        </>
      )}
    </Card>
  );
}

function Filters({ org, q, onChange }: { org: string; q: AuditQuery; onChange: (change: AuditQuery) => void }) {
  const members = useQuery(membersQuery(org)).data ?? [];
  const [resource, setResource] = useState('');
  const at = (value: string) => (value ? new Date(value).toISOString() : undefined);
  return (
    <form
      className={classes.filters}
      onSubmit={(e) => {
        e.preventDefault();
        onChange({ resource: resource.trim() });
      }}
    >
      <NativeSelect
        label={t('audit.actor')}
        value={q.actor ?? ''}
        onChange={(e) => onChange({ actor: e.currentTarget.value })}
        data={[{ value: '', label: t('audit.anybody') }, ...members.map((m) => ({ value: m.user, label: m.name }))]}
      />
      <NativeSelect
        label={t('audit.action')}
        value={q.action ?? ''}
        onChange={(e) => onChange({ action: e.currentTarget.value })}
        data={[
          { value: '', label: t('audit.anything') },
          ...kinds.map((kind) => ({ value: kind, label: tMaybe(`audit.kind.${kind.slice(0, -1)}`) ?? kind })),
        ]}
      />
      <TextInput
        label={t('audit.resource')}
        value={resource}
        autoComplete="off"
        spellCheck={false}
        onChange={(e) => setResource(e.currentTarget.value)}
        onBlur={() => resource.trim() !== (q.resource ?? '') && onChange({ resource: resource.trim() })}
      />
      <TextInput
        type="datetime-local"
        label={t('audit.from')}
        onChange={(e) => onChange({ from: at(e.currentTarget.value) })}
      />
      <TextInput
        type="datetime-local"
        label={t('audit.to')}
        onChange={(e) => onChange({ to: at(e.currentTarget.value) })}
      />
    </form>
  );
}

function Row({ one }: { one: AuditEntry }) {
  const did = tMaybe(`audit.did.${one.action}`);
  const details: [string, string][] = [
    [t('audit.when'), exact(one.at)],
    [t('audit.by'), `${one.actor_name} (${one.actor_type}${one.actor ? `, ${one.actor}` : ''})`],
    [t('audit.about'), [one.resource_type, one.resource].filter(Boolean).join(' ')],
    [t('audit.address'), one.address],
    [t('audit.agent'), one.user_agent],
    [t('error.requestId'), one.request_id],
  ];
  const filled = Object.keys((one.metadata ?? {}) as object).length > 0;
  return (
    <details className={classes.row} data-testid="entry">
      <summary>
        <span className={classes.when}>
          <Ago at={one.at} />
        </span>
        <span className={classes.did}>
          {did && <strong>{did}</strong>} <span className="mono">{one.action}</span>
        </span>
        <span className={classes.who}>{one.actor_name || one.actor_type}</span>
        <IconChevronRight className={classes.more} size={17} stroke={1.7} aria-hidden="true" />
      </summary>
      <dl className={classes.details}>
        {details
          .filter(([, value]) => value !== '')
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        {filled && (
          <div>
            <dt>{t('audit.metadata')}</dt>
            <dd>
              <pre className="mono">{JSON.stringify(one.metadata, null, 2)}</pre>
            </dd>
          </div>
        )}
      </dl>
    </details>
  );
}
