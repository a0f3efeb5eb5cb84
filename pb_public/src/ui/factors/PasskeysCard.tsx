import { Button, Modal, TextInput } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { makeOnePasskey, nameOnePasskey, takeAwayPasskey } from '@/actions/factors';
import { passkeysPossible } from '@/actions/passkeys';
import type { Factors, Passkey } from '@/api/views';
import { factorsQuery } from '@/stores/queries';
import { t } from '@/texts';
import { Ago } from '@/ui/Ago';
import { Card } from '@/ui/Card';
import { Confirm } from '@/ui/Confirm';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import { BackupCodes } from './BackupCodes';
import classes from './factors.module.css';
import { useProof } from './Proof';

/** One's passkeys: add, rename, remove. */
export function PasskeysCard() {
  const factors = useQuery(factorsQuery).data;
  if (!factors) return null; // the card above says why
  return <Loaded factors={factors} />;
}

function Loaded({ factors }: { factors: Factors }) {
  const client = useQueryClient();
  const { proven, dialog } = useProof(factors);
  const [codes, setCodes] = useState<string[]>([]);
  const [adding, setAdding] = useState(false);
  const [renaming, setRenaming] = useState<Passkey | null>(null);
  const [removing, setRemoving] = useState<Passkey | null>(null);
  const at = factors.passkeys_at;
  const possible = at !== null && passkeysPossible();
  const elsewhere = at !== null && at !== location.origin;
  const add = useAct(async (name: string) => {
    setAdding(false);
    const done = await proven(async () => setCodes(await makeOnePasskey(client, name)));
    if (done) toastDone(t('factor.passkeyAdded', { name: name.trim() || t('factor.passkeys') }));
  });
  const rename = useAct(async (name: string) => {
    if (!renaming) return;
    const { name: called } = await nameOnePasskey(client, renaming.id, name);
    setRenaming(null);
    toastDone(t('factor.passkeyRenamed', { name: called }));
  });
  const remove = useAct(async () => {
    const one = removing;
    setRemoving(null);
    if (one && (await proven(() => takeAwayPasskey(client, one.id))))
      toastDone(t('factor.passkeyRemoved', { name: one.name }));
  });
  const last = !factors.totp && factors.passkeys.length === 1;
  return (
    <Card title={t('factor.passkeys')} lead={t('factor.passkeysLead')}>
      <div className={classes.body}>
        {factors.passkeys.length === 0 ? (
          <p className="muted">{t('factor.passkeyNone')}</p>
        ) : (
          <ul className={classes.rows}>
            {factors.passkeys.map((one) => (
              <li key={one.id} className={classes.row} data-testid="passkey">
                <div className={classes.what}>
                  <strong>{one.name}</strong>
                  <p>
                    {one.last_used ? (
                      <>
                        {t('factor.passkeyUsed')} <Ago at={one.last_used} />
                      </>
                    ) : (
                      t('factor.passkeyNever')
                    )}
                  </p>
                </div>
                <div className={classes.buttons}>
                  <Button
                    variant="subtle"
                    size="compact-sm"
                    aria-label={t('factor.passkeyRename', { name: one.name })}
                    onClick={() => setRenaming(one)}
                  >
                    {t('action.rename')}
                  </Button>
                  <Button
                    variant="subtle"
                    color="red"
                    size="compact-sm"
                    aria-label={t('factor.passkeyRemove', { name: one.name })}
                    onClick={() => setRemoving(one)}
                  >
                    {t('action.remove')}
                  </Button>
                </div>
              </li>
            ))}
          </ul>
        )}
        {possible && !elsewhere ? (
          <Button variant="default" loading={add.busy} onClick={() => setAdding(true)}>
            {t('factor.passkeyAdd')}
          </Button>
        ) : (
          <p className="muted">{elsewhere ? t('factor.passkeysAt', { url: at }) : t('factor.passkeysNot')}</p>
        )}
      </div>
      {dialog}
      <NameDialog
        key={renaming?.id ?? 'new'}
        opened={adding || renaming !== null}
        title={renaming ? t('factor.passkeyRename', { name: renaming.name }) : t('factor.passkeyAdd')}
        before={renaming?.name ?? ''}
        busy={rename.busy}
        close={() => {
          setAdding(false);
          setRenaming(null);
        }}
        save={(name) => void (renaming ? rename.run(name) : add.run(name))}
      />
      <Confirm
        opened={removing !== null}
        onClose={() => setRemoving(null)}
        title={t('factor.passkeyRemoveTitle', { name: removing?.name ?? '' })}
        confirm={t('action.remove')}
        busy={remove.busy}
        onConfirm={() => void remove.run()}
      >
        <p>{t('factor.passkeyRemoveLead')}</p>
        {last && <p>{t('factor.passkeyRemoveLast')}</p>}
      </Confirm>
      <BackupCodes codes={codes} close={() => setCodes([])} />
    </Card>
  );
}

interface NameProps {
  opened: boolean;
  title: string;
  before: string;
  busy: boolean;
  close: () => void;
  save: (name: string) => void;
}

function NameDialog({ opened, title, before, busy, close, save }: NameProps) {
  const [name, setName] = useState(before);
  return (
    <Modal opened={opened} onClose={close} title={title} closeButtonProps={{ 'aria-label': t('action.close') }}>
      <form
        className={classes.form}
        onSubmit={(e) => {
          e.preventDefault();
          save(name);
        }}
      >
        <TextInput
          label={t('factor.passkeyName')}
          description={t('factor.passkeyNameHint')}
          data-autofocus
          maxLength={80}
          value={name}
          onChange={(e) => setName(e.currentTarget.value)}
        />
        <div className={classes.actions}>
          <Button type="submit" loading={busy}>
            {before ? t('action.save') : t('factor.passkeyAdd')}
          </Button>
        </div>
      </form>
    </Modal>
  );
}
