import { Skeleton, Switch } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { setMute } from '@/actions/notices';
import type { ServerDetail } from '@/api/views';
import { mutesQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Card } from './Card';
import { Failure } from './Failure';
import { toastDone } from './toast';
import { useAct } from './useAct';

/** Whether one wants to hear of a server at all. */
export function MuteCard({ server }: { server: ServerDetail }) {
  const client = useQueryClient();
  const mutes = useQuery(mutesQuery);
  const { run, busy } = useAct(async (on: boolean) => {
    await setMute(client, server.tenant, server.id, on);
    toastDone(t(on ? 'mute.muted' : 'mute.unmuted', { name: server.name }));
  });
  const on = mutes.data?.some((m) => m.server === server.id) ?? false;
  return (
    <Card title={t('mute.title')} lead={t('mute.lead')}>
      {mutes.data ? (
        <Switch
          label={t('mute.label')}
          aria-label={t('mute.label')} // the sentence below is its description, not its name
          description={on ? t('mute.on') : t('mute.off')}
          checked={on}
          disabled={busy}
          onChange={(e) => void run(e.currentTarget.checked)}
        />
      ) : mutes.error ? (
        <Failure cause={mutes.error} retry={() => void mutes.refetch()} />
      ) : (
        <Skeleton height={44} radius={8} />
      )}
    </Card>
  );
}
