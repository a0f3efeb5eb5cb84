import { Button } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute, useNavigate } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import { deleteServer } from '@/actions/deleteServer';
import { powerServer } from '@/actions/powerServer';
import type { ServerDetail } from '@/api/views';
import { usePermissions } from '@/stores/permissions';
import { installOutcome, installSteps, type Outcome } from '@/stores/phase';
import { serverQuery } from '@/stores/queries';
import { type TextKey, t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { Card, Notice } from '@/ui/Card';
import { Confirm } from '@/ui/Confirm';
import { InstallLog } from '@/ui/InstallLog';
import { InstallSteps } from '@/ui/InstallSteps';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { useConsole } from '@/ui/useConsole';
import { useTitle } from '@/ui/useTitle';
import classes from './install.module.css';

export const Route = createFileRoute('/_app/o/$org/servers/$server/install')({ component: Install });

const titles: Record<Outcome, [TextKey, TextKey]> = {
  going: ['install.title', 'install.lead'],
  ready: ['install.ready', 'install.readyLead'],
  failed: ['install.failed', 'install.failedLead'],
  stopped: ['install.stopped', 'install.stoppedLead'],
};
const ONWARD_MS = 1400; // long enough to see the last tick

function Install() {
  const { org, server: id } = Route.useParams();
  const navigate = useNavigate();
  const server = useQuery(serverQuery(org, id)).data;
  const may = usePermissions(org);
  const outcome = server ? installOutcome(server, server.job) : 'going';
  const watched = useRef(false); // who opens the page of a running server is not sent away
  if (outcome === 'going') watched.current = true;
  const name = server?.name ?? '';
  const [title, lead] = titles[outcome];
  useTitle(t(title, { name }));
  const readable = may.can('console.read');
  useEffect(() => {
    if (outcome !== 'ready' || !watched.current || !readable) return;
    const timer = setTimeout(
      () => void navigate({ to: '/o/$org/servers/$server/console', params: { org, server: id }, replace: true }),
      ONWARD_MS,
    );
    return () => clearTimeout(timer);
  }, [outcome, org, id, navigate, readable]);
  if (!server) return null;
  const heading =
    outcome === 'failed' && server.status === 'FAILED' ? t('install.failedStart', { name }) : t(title, { name });
  return (
    <div className={classes.page}>
      <div className={classes.left}>
        <Card title={heading} lead={outcome === 'ready' && !watched.current ? undefined : t(lead, { name })}>
          <InstallSteps steps={installSteps(server, server.job)} />
          {outcome === 'ready' && readable && (
            <ButtonLink to="/o/$org/servers/$server/console" params={{ org, server: id }} mt="md">
              {t('install.open')}
            </ButtonLink>
          )}
        </Card>
        {outcome === 'failed' && <Failed server={server} org={org} />}
      </div>
      {/* A server whose install failed is withdrawn from its node, and its console with it. */}
      {readable && outcome !== 'failed' ? <LiveLog org={org} server={server} /> : <KeptLog server={server} />}
    </div>
  );
}

function LiveLog({ org, server }: { org: string; server: ServerDetail }) {
  const { link } = useConsole(org, server.id);
  return (
    <Card title={t('install.log')}>
      <InstallLog link={link} kept={server.install_log ?? ''} />
    </Card>
  );
}

function KeptLog({ server }: { server: ServerDetail }) {
  return server.install_log ? (
    <Card title={t('install.log')}>
      <InstallLog kept={server.install_log} />
    </Card>
  ) : null;
}

function jobError(server: ServerDetail): string {
  const error = server.job?.error;
  return typeof error === 'string' ? error : (error?.message ?? '');
}

function Failed({ server, org }: { server: ServerDetail; org: string }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const may = usePermissions(org);
  const possible = may.actions(server);
  const [asking, setAsking] = useState(false);
  const retry = possible.includes('reinstall') ? 'reinstall' : possible.includes('start') ? 'start' : null;
  const act = useAct(async (what: 'reinstall' | 'start' | 'delete') => {
    if (what !== 'delete') return powerServer(client, org, server.id, what);
    await deleteServer(client, org, server.id);
    toastDone(t('settings.deleting', { name: server.name }));
    await navigate({ to: '/o/$org/servers', params: { org } });
  });
  return (
    <Notice tone="broken" title={t('server.problem')}>
      <p>{server.problem?.message || jobError(server) || t('install.cardFailed')}</p>
      <div className={classes.actions}>
        {retry && (
          <Button loading={act.busy} onClick={() => void act.run(retry)}>
            {t(retry === 'reinstall' ? 'install.retry' : 'action.start')}
          </Button>
        )}
        {may.can('server.delete') && (
          <Button variant="default" onClick={() => setAsking(true)}>
            {t('action.delete')}
          </Button>
        )}
      </div>
      <Confirm
        opened={asking}
        onClose={() => setAsking(false)}
        title={t('settings.deleteTitle', { name: server.name })}
        confirm={t('settings.delete')}
        typed={server.name}
        busy={act.busy}
        onConfirm={() => void act.run('delete')}
      >
        {server.address ? t('settings.deleteWhat', { address: server.address }) : t('settings.deleteWhatNoAddress')}
      </Confirm>
    </Notice>
  );
}
