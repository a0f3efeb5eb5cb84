import { Button, PasswordInput, TextInput } from '@mantine/core';
import { IconFingerprint, IconMail } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { createFileRoute, Link, redirect, useRouter } from '@tanstack/react-router';
import { useState } from 'react';
import { passkeysPossible } from '@/actions/passkeys';
import { type Checkpoint, signIn, signInBy, signInWays, signInWithPasskey } from '@/actions/signIn';
import { invitedEmail } from '@/stores/invitation';
import { waysKey } from '@/stores/queries';
import { checkEmail } from '@/stores/rules';
import { safeNext, session } from '@/stores/session';
import { t } from '@/texts';
import { Notice } from '@/ui/Card';
import { Door } from '@/ui/Door';
import { CodeDoor } from '@/ui/door/CodeDoor';
import { StepDoor } from '@/ui/door/StepDoor';
import { useAct } from '@/ui/useAct';

type Done = keyof typeof finished;

/** What was done on the page that led here. */
const finished = { reset: 'door.resetDone', email: 'door.emailDone', deleted: 'door.deleted' } as const;

interface Search {
  next?: string;
  ended?: boolean;
  done?: Done;
}

export const Route = createFileRoute('/sign-in')({
  validateSearch: (s: Record<string, unknown>): Search => ({
    next: typeof s.next === 'string' ? s.next : undefined,
    ended: s.ended === true || undefined,
    done: typeof s.done === 'string' && s.done in finished ? (s.done as Done) : undefined,
  }),
  beforeLoad: ({ search, cause }) => {
    if (cause === 'enter' && session() && search.next) throw redirect({ href: safeNext(search.next) });
  },
  component: SignIn,
});

/** The password or another way, then the second factor of whoever has one. */
function SignIn() {
  const { next } = Route.useSearch();
  const router = useRouter();
  const [held, setHeld] = useState<Checkpoint | null>(null);
  const [byMail, setByMail] = useState(false);
  const [email, setEmail] = useState(() => invitedEmail(next));
  const go = (checkpoint: Checkpoint | null) => {
    if (checkpoint) setHeld(checkpoint);
    else router.history.push(safeNext(next));
  };
  if (held) return <StepDoor held={held} done={() => go(null)} again={() => setHeld(null)} />;
  if (byMail) return <CodeDoor email={email} setEmail={setEmail} done={go} back={() => setByMail(false)} />;
  return <Credentials email={email} setEmail={setEmail} done={go} byMail={() => setByMail(true)} />;
}

interface Props {
  email: string;
  setEmail: (email: string) => void;
  done: (checkpoint: Checkpoint | null) => void;
  byMail: () => void;
}

function Credentials({ email, setEmail, done: go, byMail }: Props) {
  const { next, ended, done } = Route.useSearch();
  const [password, setPassword] = useState('');
  const [errors, setErrors] = useState<{ email?: string; password?: string }>({});
  const { run, busy } = useAct(
    async () => {
      const faults = { email: checkEmail(email), password: password ? '' : t('rule.passwordMissing') };
      setErrors(faults);
      if (faults.email || faults.password) return; // a try that cannot succeed would count
      go(await signIn(email, password));
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
      {done && <Notice tone="working">{t(finished[done])}</Notice>}
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
      <OtherWays done={go} byMail={byMail} />
    </Door>
  );
}

/** Passkey, code by mail, and the providers that the operator has set. */
function OtherWays({ done, byMail }: Pick<Props, 'done' | 'byMail'>) {
  const ways = useQuery({ queryKey: waysKey, queryFn: signInWays, staleTime: 300_000 }).data;
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async (work: () => Promise<Checkpoint | null>) => {
      setFault('');
      done(await work());
    },
    (error) => {
      setFault(error.message);
      return true;
    },
  );
  const passkey = () => signInWithPasskey().then(() => null);
  return (
    <>
      {passkeysPossible() && (
        <Button
          variant="default"
          fullWidth
          leftSection={<IconFingerprint size={18} aria-hidden="true" />}
          disabled={busy}
          onClick={() => void run(passkey)}
        >
          {t('door.usePasskey')}
        </Button>
      )}
      {ways?.codes && (
        <Button
          variant="default"
          fullWidth
          leftSection={<IconMail size={18} aria-hidden="true" />}
          disabled={busy}
          onClick={byMail}
        >
          {t('door.useCode')}
        </Button>
      )}
      {ways?.providers.map((one) => (
        <Button
          key={one.name}
          variant="default"
          fullWidth
          disabled={busy}
          onClick={() => void run(() => signInBy(one.name))}
        >
          {t('door.useProvider', { name: one.label })}
        </Button>
      ))}
      {fault && <p role="alert">{fault}</p>}
    </>
  );
}
