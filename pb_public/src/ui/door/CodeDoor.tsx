import { Button, TextInput } from '@mantine/core';
import { useState } from 'react';
import { type Checkpoint, sendCode, signInByCode } from '@/actions/signIn';
import { checkEmail } from '@/stores/rules';
import { t } from '@/texts';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';

interface Props {
  email: string;
  setEmail: (email: string) => void;
  done: (checkpoint: Checkpoint | null) => void;
  back: () => void;
}

/** Signing in with a code that comes by mail. */
export function CodeDoor({ email, setEmail, done, back }: Props) {
  const [id, setId] = useState('');
  const [code, setCode] = useState('');
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      setFault('');
      if (id && code.trim() === '') return setFault(t('rule.codeMissing'));
      if (id) return done(await signInByCode(id, code));
      const found = checkEmail(email);
      setFault(found);
      if (!found) setId(await sendCode(email));
    },
    (error) => {
      setFault(error.message);
      return true;
    },
  );
  return (
    <Door
      title={t('door.codeTitle')}
      lead={id ? t('door.codeLead', { email: email.trim() }) : t('door.codeAskLead')}
      foot={
        <button type="button" className="link" onClick={back}>
          {t('door.usePassword')}
        </button>
      }
    >
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        {id ? (
          <TextInput
            key="code"
            label={t('door.code')}
            inputMode="numeric"
            autoComplete="one-time-code"
            autoFocus
            value={code}
            error={fault || undefined}
            onChange={(e) => setCode(e.currentTarget.value)}
          />
        ) : (
          <TextInput
            key="email"
            label={t('door.email')}
            type="email"
            autoComplete="username"
            autoFocus
            value={email}
            error={fault || undefined}
            onChange={(e) => setEmail(e.currentTarget.value)}
          />
        )}
        <Button type="submit" size="md" loading={busy} fullWidth>
          {t(id ? 'door.goOn' : 'door.codeSend')}
        </Button>
      </form>
    </Door>
  );
}
