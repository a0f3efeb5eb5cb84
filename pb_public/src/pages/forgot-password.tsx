import { Button, TextInput } from '@mantine/core';
import { IconMail } from '@tabler/icons-react';
import { createFileRoute, Link } from '@tanstack/react-router';
import { useState } from 'react';
import { requestReset } from '@/actions/confirmMail';
import { checkEmail } from '@/stores/rules';
import { t } from '@/texts';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';

export const Route = createFileRoute('/forgot-password')({ component: ForgotPassword });

function ForgotPassword() {
  const [email, setEmail] = useState('');
  const [fault, setFault] = useState('');
  const [sent, setSent] = useState('');
  const { run, busy } = useAct(
    async () => {
      const found = checkEmail(email);
      setFault(found);
      if (found) return;
      await requestReset(email);
      setSent(email.trim());
    },
    (error) => {
      setFault(error.message);
      return true;
    },
  );
  const back = <Link to="/sign-in">{t('door.backToSignIn')}</Link>;
  if (sent) {
    return (
      <Door
        title={t('door.checkTitle')}
        icon={<IconMail size={24} aria-hidden="true" />}
        lead={t('door.forgotSent', { email: sent })}
        foot={back}
      />
    );
  }
  return (
    <Door title={t('door.forgotTitle')} lead={t('door.forgotLead')} foot={back}>
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <TextInput
          label={t('door.email')}
          type="email"
          autoComplete="username"
          autoFocus
          value={email}
          error={fault || undefined}
          onChange={(e) => setEmail(e.currentTarget.value)}
        />
        <Button type="submit" size="md" loading={busy} fullWidth>
          {t('door.sendLink')}
        </Button>
      </form>
    </Door>
  );
}
