import { Button, Skeleton } from '@mantine/core';
import { IconDeviceDesktop, IconDeviceMobile } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { endOne, endOthers } from '@/actions/endSessions';
import type { Session } from '@/api/views';
import { deviceOf } from '@/stores/device';
import { sessionsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Ago } from './Ago';
import { Card } from './Card';
import classes from './Devices.module.css';
import { Failure } from './Failure';
import { toastDone } from './toast';
import { useAct } from './useAct';

/** Where one is signed in, and how to end that. */
export function SessionsCard() {
  const client = useQueryClient();
  const sessions = useQuery(sessionsQuery);
  const { run, busy } = useAct(async () => {
    const count = await endOthers(client);
    toastDone(t('sessions.othersEnded', { count }));
  });
  const list = sessions.data;
  return (
    <Card title={t('sessions.title')} lead={t('sessions.lead')}>
      {list ? (
        <>
          <ul className={classes.list}>
            {list.map((one) => (
              <Row key={one.id} one={one} />
            ))}
          </ul>
          {list.some((s) => !s.current) && (
            <Button variant="default" loading={busy} onClick={() => void run()}>
              {t('sessions.endOthers')}
            </Button>
          )}
        </>
      ) : sessions.error ? (
        <Failure cause={sessions.error} retry={() => void sessions.refetch()} />
      ) : (
        <Skeleton height={60} radius={8} />
      )}
    </Card>
  );
}

function Row({ one }: { one: Session }) {
  const client = useQueryClient();
  const device = deviceOf(one.user_agent);
  const name = device.program || t('sessions.unknown');
  const { run, busy } = useAct(async () => {
    await endOne(client, one.id);
    toastDone(t('sessions.ended', { device: name }));
  });
  const Icon = device.handheld ? IconDeviceMobile : IconDeviceDesktop;
  return (
    <li className={classes.row} data-current={one.current || undefined} data-testid="session">
      <span className={classes.icon}>
        <Icon size={19} aria-hidden="true" />
      </span>
      <div className={classes.what}>
        <strong>{device.system ? t('sessions.on', { program: name, system: device.system }) : name}</strong>
        <p>
          {one.current ? t('sessions.this') : <Ago at={one.last_used} />}
          {one.address && ` · ${one.address}`}
        </p>
      </div>
      {!one.current && (
        <Button
          variant="subtle"
          color="red"
          size="compact-sm"
          loading={busy}
          aria-label={t('sessions.endOn', { device: name })}
          onClick={() => void run()}
        >
          {t('sessions.end')}
        </Button>
      )}
    </li>
  );
}
