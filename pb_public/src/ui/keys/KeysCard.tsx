import { Button, Skeleton } from '@mantine/core';
import { IconKey, IconPlus } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { endKey } from '@/actions/keys';
import type { ApiKey, MadeKey } from '@/api/views';
import { keysQuery } from '@/stores/queries';
import { allows } from '@/stores/roles';
import { t } from '@/texts';
import { Ago } from '../Ago';
import { Card } from '../Card';
import { Confirm } from '../Confirm';
import { Empty } from '../Empty';
import { Failure } from '../Failure';
import { day } from '../format';
import { toastDone } from '../toast';
import { useAct } from '../useAct';
import { KeyForm } from './KeyForm';
import { KeyShown } from './KeyShown';
import classes from './keys.module.css';

/** API keys: one's own with `org` "", else an organisation's. */
export function KeysCard({ org }: { org: string }) {
  const client = useQueryClient();
  const keys = useQuery(keysQuery(org));
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState<MadeKey | null>(null);
  const [asking, setAsking] = useState<ApiKey | null>(null);
  const [open, setOpen] = useState(false);
  const { run, busy } = useAct(async (one: ApiKey) => {
    await endKey(client, org, one.id);
    setOpen(false);
    toastDone(t('keys.revoked', { name: one.name }));
  });
  const list = keys.data?.items;
  const add = list && !making && (
    <Button leftSection={<IconPlus size={17} aria-hidden="true" />} onClick={() => setMaking(true)}>
      {t('keys.new')}
    </Button>
  );
  return (
    <>
      {made && <KeyShown made={made} onClose={() => setMade(null)} />}
      {making && keys.data && (
        <KeyForm
          org={org}
          permissions={keys.data.permissions}
          onClose={() => setMaking(false)}
          onMade={(one) => {
            setMaking(false);
            setMade(one);
          }}
        />
      )}
      <Card
        title={t('keys.title')}
        lead={t(org ? 'keys.leadOrg' : 'keys.leadMine')}
        action={list !== undefined && list.length > 0 && add}
      >
        {list === undefined ? (
          keys.error ? (
            <Failure cause={keys.error} retry={() => void keys.refetch()} />
          ) : (
            <Skeleton height={60} radius={8} />
          )
        ) : list.length > 0 ? (
          <ul className={classes.list}>
            {list.map((one) => (
              <Row
                key={one.id}
                one={one}
                maker={org !== ''}
                onRevoke={() => {
                  setAsking(one);
                  setOpen(true);
                }}
              />
            ))}
          </ul>
        ) : (
          <Empty
            icon={<IconKey size={26} stroke={1.6} aria-hidden="true" />}
            title={t('keys.empty')}
            lead={t('keys.emptyLead')}
          >
            {add}
          </Empty>
        )}
      </Card>
      <Confirm
        opened={open}
        onClose={() => setOpen(false)}
        title={t('keys.revokeTitle', { name: asking?.name ?? '' })}
        confirm={t('keys.revoke')}
        busy={busy}
        onConfirm={() => asking && void run(asking)}
      >
        {t('keys.revokeWhat')}
      </Confirm>
    </>
  );
}

function Row({ one, maker, onRevoke }: { one: ApiKey; maker: boolean; onRevoke: () => void }) {
  const may = one.permissions.map((key) => allows({ key, description: key })).join(', ');
  return (
    <li className={classes.row} data-testid="key">
      <div className={classes.what}>
        <strong>{one.name}</strong>
        {one.expired && <span className={classes.tag}>{t('keys.expired')}</span>}
        <p>
          <span className="mono">{one.hint}…</span>
          {maker && one.user_name && ` · ${t('keys.by', { name: one.user_name })}`}
          {one.expires_at && !one.expired && ` · ${t('keys.until', { day: day(one.expires_at) })}`}
        </p>
        <p>{may}</p>
        {one.addresses.length > 0 && <p>{t('keys.from', { list: one.addresses.join(', ') })}</p>}
        {one.servers.length > 0 && <p>{t('keys.onServers', { count: one.servers.length })}</p>}
        <p>
          {one.last_used ? (
            <>
              {t('keys.used')} <Ago at={one.last_used} />
              {one.last_address && ` · ${one.last_address}`}
            </>
          ) : (
            t('keys.unused')
          )}
        </p>
      </div>
      <Button
        variant="subtle"
        color="red"
        size="compact-sm"
        aria-label={t('keys.revokeOf', { name: one.name })}
        onClick={onRevoke}
      >
        {t('keys.revoke')}
      </Button>
    </li>
  );
}
