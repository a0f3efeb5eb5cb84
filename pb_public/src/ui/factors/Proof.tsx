import { Button, Modal, PasswordInput, TextInput } from '@mantine/core';
import { type ReactNode, useRef, useState } from 'react';
import { proveByPasskey, proveByPassword, proveByText } from '@/actions/factors';
import { passkeysPossible } from '@/actions/passkeys';
import { ApiError, asApiError } from '@/api/error';
import type { Factors } from '@/api/views';
import { t } from '@/texts';
import { useAct } from '@/ui/useAct';
import classes from './factors.module.css';

/**
 * Runs what needs a recent proof. When the panel wants one, a dialog asks for it and the work is done afterwards;
 * who closes the dialog has done nothing, and `proven` answers false. Draw `dialog` somewhere.
 */
export function useProof(factors: Factors | undefined): {
  proven: (work: () => Promise<void>) => Promise<boolean>;
  dialog: ReactNode;
} {
  const [open, setOpen] = useState(false);
  const ready = useRef<(ok: boolean) => void>(() => undefined);
  const proven = async (work: () => Promise<void>) => {
    try {
      await work();
      return true;
    } catch (cause) {
      if (!(cause instanceof ApiError) || asApiError(cause).code !== 'proof_required') throw cause;
    }
    setOpen(true);
    const ok = await new Promise<boolean>((resolve) => {
      ready.current = resolve;
    });
    setOpen(false);
    if (ok) await work();
    return ok;
  };
  const dialog = <ProofDialog factors={factors} opened={open} close={(ok) => ready.current(ok)} />;
  return { proven, dialog };
}

interface Props {
  factors: Factors | undefined;
  opened: boolean;
  close: (ok: boolean) => void;
}

function ProofDialog({ factors, opened, close }: Props) {
  const [text, setText] = useState('');
  const [fault, setFault] = useState('');
  const second = Boolean(factors && (factors.totp || factors.passkeys.length > 0));
  const end = (ok: boolean) => {
    setText('');
    setFault('');
    close(ok);
  };
  const { run, busy } = useAct(
    async (work: () => Promise<unknown>) => {
      await work();
      end(true);
    },
    (error) => {
      setFault(Object.values(error.fields)[0]?.message ?? error.message);
      return true;
    },
  );
  return (
    <Modal
      opened={opened}
      onClose={() => end(false)}
      title={t('factor.proofTitle')}
      closeButtonProps={{ 'aria-label': t('action.close') }}
    >
      <form
        className={classes.form}
        onSubmit={(e) => {
          e.preventDefault();
          void run(() => (second ? proveByText(text) : proveByPassword(text)));
        }}
      >
        <p>{t(second ? 'factor.proofFactor' : 'factor.proofPassword')}</p>
        {second ? (
          <TextInput
            label={t('factor.proofCode')}
            autoComplete="one-time-code"
            data-autofocus
            value={text}
            error={fault || undefined}
            onChange={(e) => setText(e.currentTarget.value)}
          />
        ) : (
          <PasswordInput
            label={t('door.password')}
            autoComplete="current-password"
            data-autofocus
            value={text}
            error={fault || undefined}
            visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
            onChange={(e) => setText(e.currentTarget.value)}
          />
        )}
        <div className={classes.actions}>
          {second && (factors?.passkeys.length ?? 0) > 0 && passkeysPossible() && (
            <Button variant="default" disabled={busy} onClick={() => void run(proveByPasskey)}>
              {t('door.usePasskey')}
            </Button>
          )}
          <Button type="submit" loading={busy}>
            {t('door.goOn')}
          </Button>
        </div>
      </form>
    </Modal>
  );
}
