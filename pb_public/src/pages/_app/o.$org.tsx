import { Button, VisuallyHidden } from '@mantine/core';
import { IconBuilding, IconShieldLock } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute, Link, Outlet, redirect, useLocation, useRouter } from '@tanstack/react-router';
import { useEffect, useMemo, useState, useSyncExternalStore } from 'react';
import { rememberTenant } from '@/actions/switchTenant';
import { asApiError } from '@/api/error';
import type { Tenant } from '@/api/views';
import { Live } from '@/stores/live';
import { usePermissions } from '@/stores/permissions';
import { accountQuery, currentQuery, tenantsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { Frame, QuietLine } from '@/ui/Frame';
import { ago, day } from '@/ui/format';
import { useKeep } from '@/ui/people/DeleteRow';
import { useNow } from '@/ui/useNow';

export const Route = createFileRoute('/_app/o/$org')({
  beforeLoad: ({ params, location }) => {
    const home = `/o/${params.org}`;
    if (location.pathname === home || location.pathname === `${home}/`)
      throw redirect({ to: '/o/$org/servers', params });
  },
  component: Organisation,
});

function Organisation() {
  const { org } = Route.useParams();
  const tenants = useQuery(tenantsQuery).data ?? [];
  const current = useQuery(currentQuery(org));
  const account = useQuery(accountQuery).data;
  const moved = useMoved(org, current.data?.tenant.id, tenants);
  const client = useQueryClient();
  useEffect(() => rememberTenant(org), [org]);
  const failed = current.error && asApiError(current.error);
  const missing = failed?.status === 404 && !moved; // also when one was in it a moment ago
  const held = failed?.code === 'second_factor_required'; // the account is one's own: that page stays open
  useEffect(() => {
    if (held) void client.invalidateQueries({ queryKey: tenantsQuery.queryKey }); // that it requires one may be new
  }, [held, client]);
  const own = useLocation({ select: (l) => l.pathname.startsWith(`/o/${org}/account`) });
  const error = missing || held || !current.data ? failed : null;
  return (
    <Frame
      tenants={tenants}
      org={org}
      notices={
        <>
          {current.data && !missing && !held && (
            <OldPicture key={current.data.tenant.id} org={org} tenant={current.data.tenant.id} />
          )}
          {current.data?.tenant.status === 'SUSPENDED' && <QuietLine tone="broken">{t('frame.suspended')}</QuietLine>}
          {current.data?.tenant.status === 'DELETING' && <DeletingLine org={org} tenant={current.data.tenant} />}
          {account?.verified === false && (
            <QuietLine>
              {t('frame.unverified')} <Link to="/check-mail">{t('frame.unverifiedAction')}</Link>
            </QuietLine>
          )}
        </>
      }
    >
      {missing ? (
        <>
          <VisuallyHidden component="h1">{t('error.notMember')}</VisuallyHidden>
          <Empty
            icon={<IconBuilding size={26} aria-hidden="true" />}
            title={t('error.notMember')}
            lead={t('error.notMemberLead')}
          >
            <ButtonLink to="/">{t('error.home')}</ButtonLink>
          </Empty>
        </>
      ) : held && own ? (
        <Outlet />
      ) : held ? (
        <Held org={org} name={tenants.find((one) => one.slug === org || one.id === org)?.name ?? org} />
      ) : error ? (
        <>
          <VisuallyHidden component="h1">{t('error.title')}</VisuallyHidden>
          <Failure cause={error} retry={() => void current.refetch()} />
        </>
      ) : (
        <Outlet />
      )}
    </Frame>
  );
}

/** On every page of an organisation that is being deleted: when, and for who may, the way back. */
function DeletingLine({ org, tenant }: { org: string; tenant: Tenant }) {
  const may = usePermissions(org).can('tenant.delete');
  const keep = useKeep(org, tenant.name);
  return (
    <QuietLine tone="broken">
      {t('frame.deleting', { name: tenant.name, day: tenant.delete_at ? day(tenant.delete_at) : '' })}{' '}
      {may && (
        <Button size="compact-sm" variant="default" loading={keep.busy} onClick={() => void keep.run()}>
          {t('frame.keep')}
        </Button>
      )}
    </QuietLine>
  );
}

/** At the door of an organisation that requires a second factor: why, and the way in. */
function Held({ org, name }: { org: string; name: string }) {
  return (
    <>
      <VisuallyHidden component="h1">{t('factor.heldTitle', { name })}</VisuallyHidden>
      <Empty
        icon={<IconShieldLock size={26} aria-hidden="true" />}
        title={t('factor.heldTitle', { name })}
        lead={t('factor.heldLead')}
      >
        <ButtonLink to="/o/$org/account/security" params={{ org }}>
          {t('factor.heldSetUp')}
        </ButtonLink>
      </Empty>
    </>
  );
}

/** Goes on under the new address when the organisation's has changed; says whether it is about to. */
function useMoved(org: string, id: string | undefined, tenants: Tenant[]): boolean {
  const router = useRouter();
  const slug = tenants.find((one) => one.id === id)?.slug;
  const moved = slug !== undefined && slug !== org && id !== org;
  useEffect(() => {
    if (moved) router.history.replace(router.state.location.href.replace(`/o/${org}`, `/o/${slug}`));
  }, [moved, org, slug, router]);
  return moved;
}

const PATIENCE_MS = 4000; // a reconnect that is quicker is nobody's business

/** Holds the live connection; says so when it is lost, and since when. */
function OldPicture({ org, tenant }: { org: string; tenant: string }) {
  const client = useQueryClient();
  const live = useMemo(() => new Live(client, org, tenant), [client, org, tenant]);
  const [running, setRunning] = useState<Live | null>(null);
  useEffect(() => {
    const one = new Live(client, org, tenant);
    one.start();
    setRunning(one);
    return () => one.stop();
  }, [client, org, tenant]);
  const { lostAt } = useSyncExternalStore((running ?? live).watch, (running ?? live).snapshot);
  useNow();
  const [late, setLate] = useState(false);
  useEffect(() => {
    setLate(false);
    if (lostAt === null) return;
    const timer = setTimeout(() => setLate(true), PATIENCE_MS);
    return () => clearTimeout(timer);
  }, [lostAt]);
  return lostAt !== null && late ? <QuietLine>{t('frame.offline', { ago: ago(lostAt) })}</QuietLine> : null;
}
