import { Button, PasswordInput } from '@mantine/core';
import { Link, useLocation, useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { tokenOf } from '@/actions/confirmMail';
import { checkPassword } from '@/stores/rules';
import { type TextKey, t } from '@/texts';
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
  const { run, busy } = useAct(
    async () => {
      const found = autoComplete === 'new-password' ? checkPassword(password) : '';
      setFault(found);
      if (found) return;
      await work(token, password);
      await navigate({ to: '/sign-in', search: { done } });
    },
    (error) => {
      setFault(error.fields.token ? t('door.verifyFailed') : (error.fields.password?.message ?? error.message));
      return true;
    },
  );
  const back = <Link to="/sign-in">{t('door.backToSignIn')}</Link>;
  if (token === '') return <Door title={t(title)} lead={t('door.linkMissing')} foot={back} />;
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
