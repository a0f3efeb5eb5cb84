import { IconLock } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute } from '@tanstack/react-router';
import { usePermissions } from '@/stores/permissions';
import { currentQuery, serverQuery } from '@/stores/queries';
import { t } from '@/texts';
import { ConsoleView } from '@/ui/ConsoleView';
import { Empty } from '@/ui/Empty';
import { useConsole } from '@/ui/useConsole';
import { useTitle } from '@/ui/useTitle';

export const Route = createFileRoute('/_app/o/$org/servers/$server/console')({ component: ConsolePage });

function ConsolePage() {
  const { org, server: id } = Route.useParams();
  const name = useQuery(serverQuery(org, id)).data?.name ?? '';
  useTitle(`${t('server.console')} · ${name}`);
  const asked = useQuery(currentQuery(org)).data !== undefined;
  const may = usePermissions(org);
  if (!asked) return null;
  if (!may.can('console.read')) {
    return (
      <Empty
        icon={<IconLock size={26} aria-hidden="true" />}
        title={t('console.title')}
        lead={t('console.notAllowed')}
      />
    );
  }
  return <Connected key={id} org={org} id={id} />;
}

function Connected({ org, id }: { org: string; id: string }) {
  const server = useQuery(serverQuery(org, id)).data;
  const { link, state } = useConsole(org, id);
  const may = usePermissions(org);
  if (!server || !link) return null;
  return <ConsoleView link={link} state={state} server={server} writable={may.can('console.write')} />;
}
