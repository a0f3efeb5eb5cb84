import { Button, TextInput } from '@mantine/core';
import { IconFingerprint, IconShieldLock } from '@tabler/icons-react';
import { useState } from 'react';
import { passkeysPossible } from '@/actions/passkeys';
import { type Checkpoint, passCheckpointBy, passCheckpointByPasskey } from '@/actions/signIn';
import type { ApiError } from '@/api/error';
import { t } from '@/texts';
import { Door } from '@/ui/Door';
import { useAct } from '@/ui/useAct';

interface Props {
  held: Checkpoint;
  done: () => void;
  again: () => void;
}

/** The second factor of a sign-in: an authenticator's code, a backup code or a passkey. */
export function StepDoor({ held, done, again }: Props) {
  const [backup, setBackup] = useState(!held.ways.includes('code') && !held.ways.includes('passkey'));
  const [text, setText] = useState('');
  const [fault, setFault] = useState('');
  const [ended, setEnded] = useState(false);
  const failed = (error: ApiError) => {
    setEnded(error.code === 'checkpoint_ended');
    setFault(Object.values(error.fields)[0]?.message ?? error.message);
    return true;
  };
  const enter = useAct(async () => {
    await passCheckpointBy(held.token, backup ? { backup_code: text.trim() } : { code: text.trim() });
    done();
  }, failed);
  const passkey = useAct(async () => {
    await passCheckpointByPasskey(held.token);
    done();
  }, failed);
  const typed = backup ? held.ways.includes('backup_code') : held.ways.includes('code');
  const other = held.ways.includes(backup ? 'code' : 'backup_code');
  return (
    <Door
      title={t('door.stepTitle')}
      lead={t('door.stepLead')}
      icon={<IconShieldLock size={24} aria-hidden="true" />}
      foot={
        <button type="button" className="link" onClick={again}>
          {t('door.beginAgain')}
        </button>
      }
    >
      {typed && !ended && (
        <form
          noValidate
          onSubmit={(e) => {
            e.preventDefault();
            void enter.run();
          }}
        >
          <TextInput
            key={String(backup)}
            label={t(backup ? 'door.stepBackup' : 'door.stepCode')}
            description={backup ? t('door.stepBackupHint') : undefined}
            inputMode={backup ? 'text' : 'numeric'}
            autoComplete="one-time-code"
            autoFocus
            spellCheck={false}
            value={text}
            error={fault || undefined}
            onChange={(e) => setText(e.currentTarget.value)}
          />
          <Button type="submit" size="md" loading={enter.busy} fullWidth>
            {t('door.goOn')}
          </Button>
        </form>
      )}
      {held.ways.includes('passkey') && passkeysPossible() && !ended && (
        <Button
          variant={typed ? 'default' : 'filled'}
          fullWidth
          leftSection={<IconFingerprint size={18} aria-hidden="true" />}
          loading={passkey.busy}
          onClick={() => void passkey.run()}
        >
          {t('door.usePasskey')}
        </Button>
      )}
      {fault && (!typed || ended) && <p role="alert">{fault}</p>}
      {other && !ended && (
        <button
          type="button"
          className="link"
          onClick={() => {
            setBackup(!backup);
            setText('');
            setFault('');
          }}
        >
          {t(backup ? 'door.stepUseCode' : 'door.stepUseBackup')}
        </button>
      )}
      <p className="muted">{t('door.stepLost')}</p>
    </Door>
  );
}
