import { Button, Loader } from '@mantine/core';
import { IconLinkOff, IconMailOpened, IconUserExclamation } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute, Link, useLocation, useNavigate } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { acceptInvite } from '@/actions/invites';
import { signOut } from '@/actions/signOut';
import { asApiError } from '@/api/error';
import { previewInvite } from '@/api/people';
import type { InvitePreview } from '@/api/views';
import { dropInvitation, type Invitation, invitationOf, keepInvitation, keptInvitation } from '@/stores/invitation';
import { onSession, session } from '@/stores/session';
import { t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { Notice } from '@/ui/Card';
import { Door } from '@/ui/Door';
import { Failure } from '@/ui/Failure';
import { day, exact } from '@/ui/format';
import classes from '@/ui/people/invitation.module.css';
import { useAct } from '@/ui/useAct';

// What the link of an invitation's mail opens. Everybody may look; whoever is signed in with the address may accept.
export const Route = createFileRoute('/invite')({ component: InvitePage });

function InvitePage() {
  const hash = useLocation({ select: (l) => l.hash });
  const navigate = useNavigate();
  const [invitation, setInvitation] = useState<Invitation | null>(() => invitationOf(hash) ?? keptInvitation());
  useEffect(() => {
    const followed = invitationOf(hash);
    if (!followed) return;
    keepInvitation(followed);
    setInvitation(followed);
    void navigate({ to: '/invite', replace: true }); // the token does not stay in the address or the history
  }, [hash, navigate]);
  if (!invitation) return <Door title={t('invitation.ended')} lead={t('door.linkMissing')} foot={<Onward />} />;
  return <Opened key={invitation.id} invitation={invitation} />;
}

function Onward() {
  return session() ? <Link to="/">{t('error.home')}</Link> : <Link to="/sign-in">{t('door.backToSignIn')}</Link>;
}

/** Who is signed in, now and whenever that changes, in another tab too. */
function useSession() {
  const [now, setNow] = useState(session);
  useEffect(() => onSession(setNow), []);
  return now;
}

function Opened({ invitation }: { invitation: Invitation }) {
  const { id, token } = invitation;
  const who = useSession();
  const preview = useQuery({
    queryKey: ['invitation', id, token],
    queryFn: ({ signal }) => previewInvite(id, token, signal),
    staleTime: 0,
  });
  const email = preview.data?.email ?? '';
  useEffect(() => {
    if (email) keepInvitation({ id, token, email }); // for the pages where one signs in or up
  }, [id, token, email]);
  const error = preview.error && asApiError(preview.error);
  const over = error?.status === 404;
  useEffect(() => {
    if (over) dropInvitation();
  }, [over]);
  if (over) {
    return (
      <Door
        title={t('invitation.ended')}
        icon={<IconLinkOff size={24} aria-hidden="true" />}
        lead={t('invitation.endedLead')}
        foot={<Onward />}
      >
        {who && <p className="muted">{t('invitation.endedMember')}</p>}
      </Door>
    );
  }
  if (!preview.data) {
    return (
      <Door title={t('invitation.loading')}>
        {error ? (
          <Failure cause={error} retry={() => void preview.refetch()} />
        ) : (
          <Loader size="sm" aria-label={t('invitation.loading')} />
        )}
      </Door>
    );
  }
  return <Offer invitation={invitation} offer={preview.data} who={who} refetch={() => void preview.refetch()} />;
}

interface OfferProps {
  invitation: Invitation;
  offer: InvitePreview;
  who: ReturnType<typeof session>;
  refetch: () => void;
}

function Offer({ invitation, offer, who, refetch }: OfferProps) {
  const server = offer.server_name;
  const names = { name: offer.tenant_name, server, by: offer.invited_by };
  const lead = server
    ? t(offer.invited_by ? 'invitation.leadServer' : 'invitation.leadServerNobody', names)
    : t(offer.invited_by ? 'invitation.lead' : 'invitation.leadNobody', names);
  return (
    <Door
      title={server ? t('invitation.titleServer', names) : t('invitation.title', names)}
      icon={<IconMailOpened size={24} aria-hidden="true" />}
      lead={lead}
    >
      <dl className={classes.facts}>
        <Fact name={t('invitation.role')}>{offer.role_name}</Fact>
        <Fact name={t('invitation.reach')}>{server ? t('invitation.only', { server }) : t('invitation.whole')}</Fact>
        <Fact name={t('invitation.address')}>{offer.email}</Fact>
        <Fact name={t('invitation.until')}>
          <time dateTime={offer.expires_at} title={exact(offer.expires_at)}>
            {day(offer.expires_at)}
          </time>
        </Fact>
      </dl>
      {!who ? (
        <Strangers email={offer.email} />
      ) : who.email.toLowerCase() === offer.email.toLowerCase() ? (
        <Accept invitation={invitation} offer={offer} refetch={refetch} />
      ) : (
        <Other mine={who.email} invited={offer.email} />
      )}
    </Door>
  );
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Strangers({ email }: { email: string }) {
  const search = { next: '/invite' };
  return (
    <>
      <p className={classes.note}>{t('invitation.need', { email })}</p>
      <ButtonLink to="/sign-up" search={search} size="md" fullWidth>
        {t('invitation.create')}
      </ButtonLink>
      <ButtonLink to="/sign-in" search={search} variant="default" size="md" fullWidth>
        {t('invitation.signIn')}
      </ButtonLink>
    </>
  );
}

function Accept({ invitation, offer, refetch }: Omit<OfferProps, 'who'>) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      setFault('');
      const { org, server } = await acceptInvite(client, invitation, offer.server_name);
      dropInvitation();
      if (server) await navigate({ to: '/o/$org/servers/$server', params: { org, server } });
      else await navigate({ to: '/o/$org/servers', params: { org } });
    },
    (error) => {
      if (error.status === 404)
        refetch(); // it ended while this page was open: the page says so
      else setFault(error.message);
      return true;
    },
  );
  return (
    <>
      <Button size="md" loading={busy} fullWidth onClick={() => void run()}>
        {t('invitation.accept')}
      </Button>
      {fault && (
        <div role="alert">
          <Notice tone="broken">{fault}</Notice>
        </div>
      )}
      <p className={classes.note}>{t('invitation.as', { email: offer.email })}</p>
    </>
  );
}

function Other({ mine, invited }: { mine: string; invited: string }) {
  const client = useQueryClient();
  const { run, busy } = useAct(() => signOut(client));
  return (
    <>
      <div className={classes.other}>
        <IconUserExclamation size={20} aria-hidden="true" />
        <p>
          {t('invitation.other', { email: mine, invited })} {t('invitation.otherLead')}
        </p>
      </div>
      <Button
        size="md"
        variant="default"
        loading={busy}
        fullWidth
        onClick={() => void run()}
        className={classes.switch}
      >
        {t('invitation.switch', { email: invited })}
      </Button>
      <p className={classes.note}>
        <Link to="/">{t('error.home')}</Link>
      </p>
    </>
  );
}
