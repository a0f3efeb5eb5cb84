import { Button, Skeleton, Switch } from '@mantine/core';
import { IconDeviceDesktop, IconDeviceMobile } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';
import { endBrowser, switchPushOff, switchPushOn } from '@/actions/push';
import { testBrowser } from '@/api/notices';
import type { PushBrowser, PushBrowsers } from '@/api/views';
import { deviceOf } from '@/stores/device';
import { stateHere } from '@/stores/push';
import { accountQuery, browsersQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Ago } from './Ago';
import { Card, Notice } from './Card';
import classes from './Devices.module.css';
import { Failure } from './Failure';
import { toastDone } from './toast';
import { useAct } from './useAct';

/** Push messages: the switch for this browser, and all browsers that get them. */
export function PushCard() {
  const browsers = useQuery(browsersQuery);
  const account = useQuery(accountQuery).data?.id;
  const list = browsers.data;
  return (
    <Card title={t('push.title')} lead={t('push.lead')}>
      {list && account ? (
        <Here list={list} account={account} />
      ) : browsers.error ? (
        <Failure cause={browsers.error} retry={() => void browsers.refetch()} />
      ) : (
        <Skeleton height={90} radius={8} />
      )}
    </Card>
  );
}

function Here({ list, account }: { list: PushBrowsers; account: string }) {
  const client = useQueryClient();
  const here = useQuery({
    queryKey: ['push', 'here', account, list],
    queryFn: () => stateHere(account, list),
    placeholderData: (held) => held, // the switch does not blink when the list is new
    staleTime: 0,
  });
  const again = here.refetch;
  usePermissionChange(() => void again());
  const { run, busy } = useAct(async (on: boolean) => {
    if (!on) {
      await switchPushOff(client, list);
      toastDone(t('push.isOff'));
    } else if (await switchPushOn(client, account, list.key)) toastDone(t('push.isOn'));
    await again();
  });
  const state = here.data?.state;
  return (
    <>
      {state === 'unsupported' ? (
        <Notice tone="attention" title={t('push.unsupported')}>
          {t('push.unsupportedLead')}
        </Notice>
      ) : state === 'denied' ? (
        <Notice tone="attention" title={t('push.denied')}>
          {t('push.deniedLead')}
        </Notice>
      ) : state ? (
        <Switch
          label={t('push.here')}
          aria-label={t('push.here')} // the sentence below is its description, not its name
          description={busy ? t('push.busy') : state === 'on' ? t('push.hereOn') : t('push.hereOff')}
          checked={state === 'on'}
          disabled={busy}
          onChange={(e) => void run(e.currentTarget.checked)}
        />
      ) : (
        <Skeleton height={44} radius={8} />
      )}
      {list.items.length > 0 && (
        <>
          <h3 className={classes.title}>{t('push.browsers')}</h3>
          <ul className={classes.list}>
            {list.items.map((one) => (
              <Row key={one.id} one={one} list={list} here={state === 'on' && one.endpoint_hash === here.data?.hash} />
            ))}
          </ul>
        </>
      )}
    </>
  );
}

function Row({ one, list, here }: { one: PushBrowser; list: PushBrowsers; here: boolean }) {
  const client = useQueryClient();
  const device = deviceOf(one.device);
  const program = device.program || t('sessions.unknown');
  const name = device.system ? t('sessions.on', { program, system: device.system }) : program;
  const test = useAct(async () => {
    await testBrowser(one.id);
    toastDone(t('push.tested'));
    await client.invalidateQueries({ queryKey: browsersQuery.queryKey });
  });
  const remove = useAct(async () => {
    await endBrowser(client, list, one);
    toastDone(t('push.removed', { device: name }));
  });
  const Icon = device.handheld ? IconDeviceMobile : IconDeviceDesktop;
  return (
    <li className={classes.row} data-current={here || undefined} data-testid="browser">
      <span className={classes.icon}>
        <Icon size={19} aria-hidden="true" />
      </span>
      <div className={classes.what}>
        <strong>{name}</strong>
        <p>
          {here && `${t('push.this')} · `}
          {one.used_at ? (
            <>
              {t('push.used')} <Ago at={one.used_at} />
            </>
          ) : (
            t('push.unused')
          )}
        </p>
      </div>
      <div className={classes.acts}>
        <Button
          variant="default"
          size="compact-sm"
          loading={test.busy}
          aria-label={t('push.testOf', { device: name })}
          onClick={() => void test.run()}
        >
          {t('push.test')}
        </Button>
        <Button
          variant="subtle"
          color="red"
          size="compact-sm"
          loading={remove.busy}
          aria-label={t('push.removeOf', { device: name })}
          onClick={() => void remove.run()}
        >
          {t('push.remove')}
        </Button>
      </div>
    </li>
  );
}

/** Calls back when the person allows or blocks messages in the browser's own settings. */
function usePermissionChange(changed: () => void) {
  // biome-ignore lint/correctness/useExhaustiveDependencies: it asks for the newest state whenever it is called
  useEffect(() => {
    let status: PermissionStatus | undefined;
    let stopped = false;
    navigator.permissions
      ?.query({ name: 'notifications' })
      .then((found) => {
        if (stopped) return;
        status = found;
        found.addEventListener('change', changed);
      })
      .catch(() => undefined); // a browser that does not tell: it is asked again when the window is looked at
    return () => {
      stopped = true;
      status?.removeEventListener('change', changed);
    };
  }, []);
}
