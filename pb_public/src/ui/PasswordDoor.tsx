import { Button, PasswordInput } from '@mantine/core';
import { IconLinkOff } from '@tabler/icons-react';
import { Link, useLocation, useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { tokenOf } from '@/actions/confirmMail';
import { checkPassword } from '@/stores/rules';
import { type TextKey, t } from '@/texts';
import { ButtonLink } from './ButtonLink';
import { Door } from './Door';
import { useAct } from './useAct';

interface Props {
  title: TextKey;
  lead: TextKey;
  save: TextKey;
  label: TextKey;
  autoComplete: 'new-password' | 'current-password';
  done: 'reset' | 'email';
  work: (token: string, password: string) => Promise<void>;
}

/** A page that a link from a mail opens and that wants a password: a new one, or the present one. */
export function PasswordDoor({ title, lead, save, label, autoComplete, done, work }: Props) {
  const token = tokenOf(useLocation({ select: (l) => l.hash }));
  const navigate = useNavigate();
  const [password, setPassword] = useState('');
  const [fault, setFault] = useState('');
  const [dead, setDead] = useState(false); // the link was used or is too old
  const { run, busy } = useAct(
    async () => {
      const found = autoComplete === 'new-password' ? checkPassword(password) : '';
      setFault(found);
      if (found) return;
      await work(token, password);
      await navigate({ to: '/sign-in', search: { done } });
    },
    (error) => {
      setDead(Boolean(error.fields.token));
      setFault(error.fields.password?.message ?? error.message);
      return true;
    },
  );
  const back = <Link to="/sign-in">{t('door.backToSignIn')}</Link>;
  if (token === '') return <Door title={t(title)} lead={t('door.linkMissing')} foot={back} />;
  if (dead) {
    return (
      <Door
        title={t('door.verifyFailed')}
        lead={t(done === 'reset' ? 'door.resetFailedLead' : 'door.emailFailedLead')}
        icon={<IconLinkOff size={24} aria-hidden="true" />}
        foot={back}
      >
        {done === 'reset' && (
          <ButtonLink to="/forgot-password" size="md" fullWidth>
            {t('door.sendAnother')}
          </ButtonLink>
        )}
      </Door>
    );
  }
  return (
    <Door title={t(title)} lead={t(lead)} foot={back}>
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <PasswordInput
          label={t(label)}
          description={autoComplete === 'new-password' ? t('door.passwordHint') : undefined}
          autoComplete={autoComplete}
          autoFocus
          value={password}
          error={fault || undefined}
          visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
          onChange={(e) => setPassword(e.currentTarget.value)}
        />
        <Button type="submit" size="md" loading={busy} fullWidth>
          {t(save)}
        </Button>
      </form>
    </Door>
  );
}
