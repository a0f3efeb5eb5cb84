import { Button, PasswordInput, TextInput } from '@mantine/core';
import { createFileRoute, Link, redirect, useRouter } from '@tanstack/react-router';
import { useState } from 'react';
import { signIn } from '@/actions/signIn';
import { invitedEmail } from '@/stores/invitation';
import { checkEmail } from '@/stores/rules';
import { safeNext, session } from '@/stores/session';
import { t } from '@/texts';
import { Notice } from '@/ui/Card';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';

interface Search {
  next?: string;
  ended?: boolean;
  done?: 'reset' | 'email';
}

export const Route = createFileRoute('/sign-in')({
  validateSearch: (s: Record<string, unknown>): Search => ({
    next: typeof s.next === 'string' ? s.next : undefined,
    ended: s.ended === true || undefined,
    done: s.done === 'reset' || s.done === 'email' ? s.done : undefined,
  }),
  beforeLoad: ({ search, cause }) => {
    if (cause === 'enter' && session() && search.next) throw redirect({ href: safeNext(search.next) });
  },
  component: SignIn,
});

function SignIn() {
  const { next, ended, done } = Route.useSearch();
  const router = useRouter();
  const [email, setEmail] = useState(() => invitedEmail(next));
  const [password, setPassword] = useState('');
  const [errors, setErrors] = useState<{ email?: string; password?: string }>({});
  const { run, busy } = useAct(
    async () => {
      const fault = checkEmail(email);
      setErrors({ email: fault });
      if (fault) return;
      await signIn(email, password);
      router.history.push(safeNext(next));
    },
    (error) => {
      setErrors({ password: error.message });
      return true;
    },
  );
  return (
    <Door
      title={t('door.signIn')}
      lead={t('door.signInLead')}
      foot={
        <>
          {t('door.noAccount')}{' '}
          <Link to="/sign-up" search={{ next }}>
            {t('door.signUp')}
          </Link>
        </>
      }
    >
      {ended && <Notice tone="attention">{t('door.ended')}</Notice>}
      {done && <Notice tone="working">{t(done === 'reset' ? 'door.resetDone' : 'door.emailDone')}</Notice>}
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
          error={errors.email}
          onChange={(e) => setEmail(e.currentTarget.value)}
        />
        <PasswordInput
          label={t('door.password')}
          autoComplete="current-password"
          value={password}
          error={errors.password}
          visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
          onChange={(e) => setPassword(e.currentTarget.value)}
        />
        <Button type="submit" size="md" loading={busy} fullWidth>
          {t('door.signIn')}
        </Button>
      </form>
      <Link to="/forgot-password">{t('door.forgot')}</Link>
    </Door>
  );
}
