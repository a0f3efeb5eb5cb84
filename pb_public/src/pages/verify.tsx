import { Loader } from '@mantine/core';
import { IconCircleCheck, IconLinkOff } from '@tabler/icons-react';
import { useQueryClient } from '@tanstack/react-query';
import { createFileRoute, Link, useLocation } from '@tanstack/react-router';
import { useEffect, useRef, useState } from 'react';
import { confirmVerification, tokenOf } from '@/actions/confirmMail';
import { type ApiError, asApiError } from '@/api/error';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { ButtonLink } from '@/ui/ButtonLink';
import { Door } from '@/ui/Door';
import { Failure } from '@/ui/Failure';

export const Route = createFileRoute('/verify')({ component: Verify });

function Verify() {
  const token = tokenOf(useLocation({ select: (l) => l.hash }));
  const client = useQueryClient();
  const [state, setState] = useState<'working' | 'done' | ApiError>('working');
  const [tries, setTries] = useState(0);
  const asked = useRef(-1);
  useEffect(() => {
    if (token === '' || asked.current === tries) return; // a link works once: ask once
    asked.current = tries;
    setState('working');
    confirmVerification(token).then(
      () => {
        void client.invalidateQueries({ queryKey: ['account'] });
        setState('done');
      },
      (cause) => setState(asApiError(cause)),
    );
  }, [token, tries, client]);

  const onward = session() ? (
    <ButtonLink to="/" size="md" fullWidth>
      {t('action.continue')}
    </ButtonLink>
  ) : (
    <ButtonLink to="/sign-in" size="md" fullWidth>
      {t('door.signIn')}
    </ButtonLink>
  );
  if (token === '')
    return (
      <Door
        title={t('door.verifyFailed')}
        lead={t('door.linkMissing')}
        foot={<Link to="/sign-in">{t('door.backToSignIn')}</Link>}
      />
    );
  if (state === 'working') {
    return (
      <Door title={t('door.verifyWorking')}>
        <Loader size="sm" aria-label={t('door.verifyWorking')} />
      </Door>
    );
  }
  if (state === 'done') {
    return (
      <Door
        title={t('door.verifyDone')}
        icon={<IconCircleCheck size={26} aria-hidden="true" />}
        lead={t('door.verifyDoneLead')}
      >
        {onward}
      </Door>
    );
  }
  if (state.retryable) {
    return (
      <Door title={t('door.verifyWorking')}>
        <Failure cause={state} retry={() => setTries(tries + 1)} />
      </Door>
    );
  }
  return (
    <Door
      title={t('door.verifyFailed')}
      icon={<IconLinkOff size={26} aria-hidden="true" />}
      lead={t('door.verifyFailedLead')}
    >
      {onward}
    </Door>
  );
}
