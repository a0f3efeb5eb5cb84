import { Button } from '@mantine/core';
import { IconMail } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link, redirect, useNavigate } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { resendVerification } from '@/actions/confirmMail';
import { accountQuery } from '@/stores/queries';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';
import { useSignOut } from '@/ui/useSignOut';

const LOOK_MS = 4000;

export const Route = createFileRoute('/check-mail')({
  beforeLoad: () => {
    if (!session()) throw redirect({ to: '/sign-in' });
  },
  component: CheckMail,
});

function CheckMail() {
  const navigate = useNavigate();
  const signOut = useSignOut();
  const email = session()?.email ?? '';
  const [said, setSaid] = useState('');
  const [fault, setFault] = useState('');
  // The link may be opened on another device: this page notices by itself.
  const verified = useQuery({ ...accountQuery, refetchInterval: LOOK_MS, staleTime: 0 }).data?.verified === true;
  useEffect(() => {
    if (verified) void navigate({ to: '/' });
  }, [verified, navigate]);
  const { run, busy } = useAct(
    async () => {
      setFault('');
      await resendVerification(email);
      setSaid(t('door.resent', { email }));
    },
    (error) => {
      setSaid('');
      setFault(error.message);
      return true;
    },
  );
  return (
    <Door
      title={t('door.checkTitle')}
      icon={<IconMail size={24} aria-hidden="true" />}
      lead={t('door.checkLead', { email })}
      foot={
        <>
          <Link to="/">{t('door.later')}</Link>
          {' · '}
          <button type="button" className="link" onClick={signOut}>
            {t('action.signOut')}
          </button>
        </>
      }
    >
      <p className="muted">{t('door.checkHint')}</p>
      <Button variant="default" size="md" loading={busy} onClick={() => void run()}>
        {t('door.resend')}
      </Button>
      <p role="status" className="empty-gone">
        {said}
      </p>
      {fault && <p role="alert">{fault}</p>}
    </Door>
  );
}
