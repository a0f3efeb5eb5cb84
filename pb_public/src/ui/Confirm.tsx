import { Button, Modal, TextInput } from '@mantine/core';
import { type ReactNode, useState } from 'react';
import { confirms } from '@/actions/deleteServer';
import { t } from '@/texts';
import classes from './Confirm.module.css';

interface Props {
  opened: boolean;
  onClose: () => void;
  title: string;
  children: ReactNode;
  confirm: string;
  busy: boolean;
  /** The name to type before it can be confirmed; without it one click is enough. */
  typed?: string;
  onConfirm: () => void;
}

/** Asks before something is lost, and says what. */
export function Confirm({ opened, onClose, title, children, confirm, busy, typed, onConfirm }: Props) {
  const [text, setText] = useState('');
  const ready = typed === undefined || confirms(text, typed);
  const close = () => {
    setText('');
    onClose();
  };
  return (
    <Modal opened={opened} onClose={close} title={title} closeButtonProps={{ 'aria-label': t('action.close') }}>
      <form
        className={classes.form}
        onSubmit={(e) => {
          e.preventDefault();
          if (ready) onConfirm();
        }}
      >
        <div>{children}</div>
        {typed !== undefined && (
          <TextInput
            label={t('settings.deleteType', { name: typed })}
            value={text}
            onChange={(e) => setText(e.currentTarget.value)}
            autoComplete="off"
            spellCheck={false}
            data-autofocus
          />
        )}
        <div className={classes.actions}>
          <Button variant="default" onClick={close}>
            {t('action.cancel')}
          </Button>
          <Button type="submit" color="red" disabled={!ready} loading={busy}>
            {confirm}
          </Button>
        </div>
      </form>
    </Modal>
  );
}
