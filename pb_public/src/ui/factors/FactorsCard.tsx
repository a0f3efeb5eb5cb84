import { Button, Modal, Skeleton, TextInput } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { newBackupCodes, switchOffTotp, switchOnTotp } from '@/actions/factors';
import { beginTotp } from '@/api/factors';
import type { Factors, TotpBegun } from '@/api/views';
import { factorsQuery } from '@/stores/queries';
import { type TextKey, t } from '@/texts';
import { Card, Notice } from '@/ui/Card';
import { Failure } from '@/ui/Failure';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { BackupCodes } from './BackupCodes';
import classes from './factors.module.css';
import { useProof } from './Proof';

/** The authenticator and the backup codes of one's account. */
export function FactorsCard() {
  const factors = useQuery(factorsQuery);
  if (factors.data) return <Loaded factors={factors.data} />;
  return (
    <Card title={t('factor.title')} lead={t('factor.lead')}>
      {factors.error ? (
        <Failure cause={factors.error} retry={() => void factors.refetch()} />
      ) : (
        <Skeleton height={120} radius={8} />
      )}
    </Card>
  );
}

function Loaded({ factors }: { factors: Factors }) {
  const client = useQueryClient();
  const { proven, dialog } = useProof(factors);
  const [begun, setBegun] = useState<TotpBegun | null>(null);
  const [asking, setAsking] = useState<'off' | 'codes' | null>(null);
  const [codes, setCodes] = useState<string[]>([]);
  const begin = useAct(async () => {
    await proven(async () => setBegun(await beginTotp()));
  });
  const some = factors.totp || factors.passkeys.length > 0;
  const backup = factors.backup_codes;
  return (
    <Card title={t('factor.title')} lead={t('factor.lead')}>
      {!some && <Notice tone="attention">{t('factor.none')}</Notice>}
      <div className={classes.rows}>
        <div className={classes.row}>
          <div className={classes.what}>
            <strong>{t('factor.totp')}</strong>
            <p>{t(factors.totp ? 'factor.totpOn' : 'factor.totpOff')}</p>
          </div>
          {factors.totp ? (
            <Button variant="default" onClick={() => setAsking('off')}>
              {t('factor.switchOff')}
            </Button>
          ) : (
            <Button loading={begin.busy} onClick={() => void begin.run()}>
              {t('factor.setUp')}
            </Button>
          )}
        </div>
        <div className={classes.row}>
          <div className={classes.what}>
            <strong>{t('factor.backup')}</strong>
            <p>{some ? t('factor.backupLeft', { count: backup }) : t('factor.backupNone')}</p>
          </div>
          {some && (
            <Button variant="default" onClick={() => setAsking('codes')}>
              {t('factor.backupNew')}
            </Button>
          )}
        </div>
      </div>
      {dialog}
      <SetUp
        begun={begun}
        close={() => setBegun(null)}
        confirm={async (code) => {
          setCodes(await switchOnTotp(client, code));
          setBegun(null);
          toastDone(t('factor.on'));
        }}
      />
      <AskFactor
        title={asking === 'off' ? 'factor.switchOff' : 'factor.backupNew'}
        opened={asking !== null}
        close={() => setAsking(null)}
        work={async (text) => {
          if (asking === 'off') {
            await switchOffTotp(client, text);
            toastDone(t('factor.switchedOff'));
          } else setCodes(await newBackupCodes(client, text));
          setAsking(null);
        }}
      />
      <BackupCodes codes={codes} close={() => setCodes([])} />
    </Card>
  );
}

interface SetUpProps {
  begun: TotpBegun | null;
  close: () => void;
  confirm: (code: string) => Promise<void>;
}

function SetUp({ begun, close, confirm }: SetUpProps) {
  return (
    <Modal
      opened={begun !== null}
      onClose={close}
      title={t('factor.totp')}
      closeButtonProps={{ 'aria-label': t('action.close') }}
    >
      {begun && (
        <div className={classes.form}>
          <p>{t('factor.scan')}</p>
          <img className={classes.qr} src={begun.qr} alt={t('factor.picture')} width={240} height={240} />
          <div>
            <span className={classes.label}>{t('factor.key')}</span>
            <p className={classes.key} data-testid="totp-secret">
              {begun.secret}
            </p>
          </div>
          <TextForm label="factor.code" confirm="factor.confirm" work={confirm} />
        </div>
      )}
    </Modal>
  );
}

interface AskProps {
  title: TextKey;
  opened: boolean;
  close: () => void;
  work: (text: string) => Promise<void>;
}

/** Asks for a code or backup code, which is itself the proof. */
function AskFactor({ title, opened, close, work }: AskProps) {
  return (
    <Modal opened={opened} onClose={close} title={t(title)} closeButtonProps={{ 'aria-label': t('action.close') }}>
      <div className={classes.form}>
        <p>{t('factor.proofFactor')}</p>
        <TextForm label="factor.proofCode" confirm={title} work={work} />
      </div>
    </Modal>
  );
}

function TextForm({
  label,
  confirm,
  work,
}: {
  label: TextKey;
  confirm: TextKey;
  work: (text: string) => Promise<void>;
}) {
  const [text, setText] = useState('');
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      setFault('');
      await work(text);
    },
    (error) => {
      setFault(Object.values(error.fields)[0]?.message ?? error.message);
      return true;
    },
  );
  return (
    <form
      className={classes.form}
      onSubmit={(e) => {
        e.preventDefault();
        void run();
      }}
    >
      <TextInput
        label={t(label)}
        autoComplete="one-time-code"
        data-autofocus
        spellCheck={false}
        value={text}
        error={fault || undefined}
        onChange={(e) => setText(e.currentTarget.value)}
      />
      <div className={classes.actions}>
        <Button type="submit" loading={busy}>
          {t(confirm)}
        </Button>
      </div>
    </form>
  );
}
