import { ActionIcon, Button, Menu } from '@mantine/core';
import { IconDots, IconPlayerPlay, IconPlayerStop, IconRefresh, IconSkull } from '@tabler/icons-react';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { powerServer } from '@/actions/powerServer';
import type { PowerAction, Server } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { t } from '@/texts';
import { Confirm } from './Confirm';
import classes from './PowerButtons.module.css';
import { toastDone } from './toast';
import { useAct } from './useAct';

/** What can be done with the server's power right now, and nothing else. */
export function PowerButtons({ server, org }: { server: Server; org: string }) {
  const client = useQueryClient();
  const possible = usePermissions(org).actions(server);
  const [killing, setKilling] = useState(false);
  const { run, busy } = useAct(async (action: PowerAction) => {
    await powerServer(client, org, server.id, action);
    setKilling(false);
    toastDone(t(`server.done.${action}`, { name: server.name }));
  });
  const has = (action: PowerAction) => possible.includes(action);
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset would need a form
    <div className={classes.row} role="group" aria-label={t('server.power')}>
      {has('start') && (
        <Button
          leftSection={<IconPlayerPlay size={17} aria-hidden="true" />}
          loading={busy}
          onClick={() => void run('start')}
        >
          {t('action.start')}
        </Button>
      )}
      {has('stop') && (
        <Button
          variant="default"
          leftSection={<IconPlayerStop size={17} aria-hidden="true" />}
          loading={busy}
          onClick={() => void run('stop')}
        >
          {t('action.stop')}
        </Button>
      )}
      {has('restart') && (
        <Button
          variant="default"
          leftSection={<IconRefresh size={17} aria-hidden="true" />}
          disabled={busy}
          onClick={() => void run('restart')}
        >
          {t('action.restart')}
        </Button>
      )}
      {has('kill') && (
        <Menu position="bottom-end" width={200}>
          <Menu.Target>
            <ActionIcon variant="default" size={36} aria-label={t('server.more')}>
              <IconDots size={18} aria-hidden="true" />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item
              className={classes.danger}
              leftSection={<IconSkull size={17} aria-hidden="true" />}
              onClick={() => setKilling(true)}
            >
              {t('action.kill')}
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      )}
      <Confirm
        opened={killing}
        onClose={() => setKilling(false)}
        title={t('server.killTitle', { name: server.name })}
        confirm={t('action.kill')}
        busy={busy}
        onConfirm={() => void run('kill')}
      >
        {t('server.killLead')}
      </Confirm>
    </div>
  );
}
