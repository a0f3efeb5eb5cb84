import { Button, PasswordInput, TextInput } from '@mantine/core';
import { createFileRoute, Link, useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { signUp } from '@/actions/signUp';
import { invitedEmail } from '@/stores/invitation';
import { checkEmail, checkPassword, checkPersonName } from '@/stores/rules';
import { session } from '@/stores/session';
import { t } from '@/texts';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';
import { useFirstFault } from '@/ui/useFirstFault';

export const Route = createFileRoute('/sign-up')({
  validateSearch: (s: Record<string, unknown>): { next?: string } => ({
    next: typeof s.next === 'string' ? s.next : undefined,
  }),
  component: SignUp,
});

const empty = { name: '', email: '', password: '' };

function SignUp() {
  const navigate = useNavigate();
  const { next } = Route.useSearch();
  const [invited] = useState(() => invitedEmail(next));
  const [who, setWho] = useState({ ...empty, email: invited });
  const [errors, setErrors] = useState(empty);
  const form = useFirstFault(errors);
  const { run, busy } = useAct(
    async () => {
      const faults = {
        name: checkPersonName(who.name),
        email: checkEmail(who.email),
        password: checkPassword(who.password),
      };
      setErrors(faults);
      if (faults.name || faults.email || faults.password) return;
      // The mail of the invitation has come to this address: accepting confirms it, and another mail would only confuse.
      const confirmed = invited !== '' && who.email.trim().toLowerCase() === invited.toLowerCase();
      await signUp(who, !confirmed);
      await (invited ? navigate({ to: '/invite' }) : navigate({ to: '/check-mail' }));
    },
    (error) => {
      const { name, email, password } = error.fields;
      if (session()) {
        void navigate({ to: invited ? '/invite' : '/check-mail' }); // the account is there; only the mail is not, and that page sends it again
        return false;
      }
      setErrors({ name: name?.message ?? '', email: email?.message ?? '', password: password?.message ?? '' });
      return Boolean(name || email || password);
    },
  );
  const field = (key: keyof typeof empty) => ({
    value: who[key],
    error: errors[key] || undefined,
    onChange: (e: React.ChangeEvent<HTMLInputElement>) => setWho({ ...who, [key]: e.currentTarget.value }),
  });
  return (
    <Door
      title={t('door.signUpTitle')}
      lead={t(invited ? 'invitation.signUpPlain' : 'door.signUpLead')}
      foot={
        <>
          {t('door.haveAccount')}{' '}
          <Link to="/sign-in" search={{ next }}>
            {t('door.signIn')}
          </Link>
        </>
      }
    >
      <form
        ref={form}
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <TextInput label={t('door.name')} autoComplete="name" autoFocus {...field('name')} />
        <TextInput label={t('door.email')} type="email" autoComplete="username" {...field('email')} />
        <PasswordInput
          label={t('door.password')}
          description={t('door.passwordHint')}
          autoComplete="new-password"
          visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
          {...field('password')}
        />
        <Button type="submit" size="md" loading={busy} fullWidth>
          {t('door.createAccount')}
        </Button>
      </form>
    </Door>
  );
}
