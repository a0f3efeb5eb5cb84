import { Button, NativeSelect, Textarea, TextInput } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useRef, useState } from 'react';
import { addKey, addressesOf } from '@/actions/keys';
import type { MadeKey, PermissionInfo } from '@/api/views';
import { choiceQuery } from '@/stores/queries';
import { checkName } from '@/stores/rules';
import { t } from '@/texts';
import { Card, Notice } from '../Card';
import { PermissionChoice } from '../people/PermissionChoice';
import roles from '../people/roles.module.css';
import { useAct } from '../useAct';
import { useFirstFault } from '../useFirstFault';
import classes from './keys.module.css';

const DAY_MS = 86_400_000;
const lives = ['30', '90', '365', ''] as const;
const none = { name: '', permissions: '', addresses: '', servers: '', expires_at: '' };

interface Props {
  org: string;
  permissions: PermissionInfo[];
  onClose: () => void;
  onMade: (made: MadeKey) => void;
}

/** Makes an API key: what it may do, from where, and until when. */
export function KeyForm({ org, permissions, onClose, onMade }: Props) {
  const client = useQueryClient();
  const [name, setName] = useState('');
  const [chosen, setChosen] = useState<string[]>([]);
  const [addresses, setAddresses] = useState('');
  const [server, setServer] = useState('');
  const [life, setLife] = useState<string>('90');
  const [faults, setFaults] = useState(none);
  const first = useRef<HTMLInputElement>(null);
  useEffect(() => first.current?.focus(), []);
  const form = useFirstFault(faults);
  const { run, busy } = useAct(
    async () => {
      const found = { ...none, name: checkName(name), permissions: chosen.length > 0 ? '' : t('keys.chooseOne') };
      setFaults(found);
      if (found.name || found.permissions) return;
      const until = life ? new Date(Date.now() + Number(life) * DAY_MS).toISOString() : undefined;
      onMade(
        await addKey(client, org, {
          name,
          permissions: chosen,
          servers: server ? [server] : [],
          addresses: addressesOf(addresses),
          expires_at: until,
        }),
      );
    },
    (error) => {
      const said = (field: string) => error.fields[field]?.message ?? '';
      const found = {
        name: said('name'),
        permissions: said('permissions') || (error.code === 'key_beyond_yours' ? error.message : ''),
        addresses: said('addresses'),
        servers: said('servers'),
        expires_at: said('expires_at'),
      };
      setFaults(found);
      return Object.values(found).some((text) => text !== '');
    },
  );
  return (
    <Card title={t('keys.makeTitle')}>
      <form
        ref={form}
        noValidate
        className={roles.editor}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <div className={classes.fields}>
          <TextInput
            ref={first}
            label={t('keys.name')}
            description={t('keys.nameHint')}
            inputWrapperOrder={['label', 'input', 'description', 'error']}
            autoComplete="off"
            value={name}
            error={faults.name || undefined}
            onChange={(e) => setName(e.currentTarget.value)}
          />
          <NativeSelect
            label={t('keys.life')}
            value={life}
            error={faults.expires_at || undefined}
            onChange={(e) => setLife(e.currentTarget.value)}
            data={lives.map((days) => ({
              value: days,
              label: days ? t('keys.days', { count: Number(days) }) : t('keys.never'),
            }))}
          />
        </div>
        <PermissionChoice
          title={t('keys.may')}
          permissions={permissions}
          chosen={chosen}
          notYours={t('keys.notYours')}
          onChange={setChosen}
        />
        <div className={classes.fields}>
          <Textarea
            label={t('keys.addresses')}
            description={t('keys.addressesHint')}
            inputWrapperOrder={['label', 'input', 'description', 'error']}
            rows={2}
            value={addresses}
            error={faults.addresses || undefined}
            onChange={(e) => setAddresses(e.currentTarget.value)}
          />
          {org && <Reach org={org} value={server} error={faults.servers} onChange={setServer} />}
        </div>
        {faults.permissions && (
          <div role="alert">
            <Notice tone="broken">{faults.permissions}</Notice>
          </div>
        )}
        <div className={classes.actions}>
          <Button type="submit" loading={busy}>
            {t('keys.make')}
          </Button>
          <Button variant="subtle" onClick={onClose}>
            {t('action.cancel')}
          </Button>
        </div>
      </form>
    </Card>
  );
}

interface ReachProps {
  org: string;
  value: string;
  error: string;
  onChange: (server: string) => void;
}

function Reach({ org, value, error, onChange }: ReachProps) {
  const servers = useQuery(choiceQuery(org)).data?.items ?? [];
  return (
    <NativeSelect
      label={t('keys.servers')}
      value={value}
      error={error || undefined}
      onChange={(e) => onChange(e.currentTarget.value)}
      data={[{ value: '', label: t('keys.allServers') }, ...servers.map((s) => ({ value: s.id, label: s.name }))]}
    />
  );
}
