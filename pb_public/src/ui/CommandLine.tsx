import { ActionIcon, TextInput } from '@mantine/core';
import { IconChevronRight, IconSend2 } from '@tabler/icons-react';
import { useEffect, useRef, useState } from 'react';
import { sendCommand } from '@/actions/sendCommand';
import type { Server } from '@/api/views';
import type { ConsoleLink, Link } from '@/stores/console';
import { CommandHistory } from '@/stores/history';
import { takesCommands } from '@/stores/phase';
import { t } from '@/texts';
import classes from './CommandLine.module.css';

/** Where commands are typed. Arrow up and down bring earlier ones back. */
export function CommandLine({
  link,
  state,
  server,
  writable,
}: {
  link: ConsoleLink;
  state: Link;
  server: Server;
  writable: boolean;
}) {
  const [typed, setTyped] = useState('');
  const [fault, setFault] = useState('');
  const [waiting, setWaiting] = useState(false); // Enter was pressed before the console was there
  const history = useRef(new CommandHistory());
  useEffect(() => link.onFault((message) => setFault(t('console.notDelivered', { message }))), [link]);
  const running = takesCommands(server);
  const connected = state.kind === 'live' || state.kind === 'history';
  const send = () => {
    if (!running) return;
    if (state.kind === 'connecting') {
      setWaiting(true); // it goes out with the first frame
      return;
    }
    if (!connected) {
      setFault(t('console.notConnected')); // not kept for later: nobody knows how long that is
      return;
    }
    if (!sendCommand(link, history.current, typed)) return;
    setTyped('');
    setFault('');
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: the connection is what it waits for
  useEffect(() => {
    if (!waiting || state.kind === 'connecting') return;
    setWaiting(false);
    send();
  }, [waiting, state.kind]);
  if (!writable) return <p className={classes.readOnly}>{t('console.readOnly')}</p>;
  return (
    <form
      className={classes.line}
      onSubmit={(e) => {
        e.preventDefault();
        send();
      }}
    >
      <TextInput
        className={classes.field}
        aria-label={t('console.input')}
        placeholder={t(
          running
            ? 'console.placeholder'
            : server.status === 'INSTALL_FAILED'
              ? 'console.placeholderFailed'
              : 'console.placeholderOff',
        )}
        leftSection={<IconChevronRight size={17} aria-hidden="true" />}
        classNames={{ input: classes.input }}
        autoComplete="off"
        autoCapitalize="off"
        spellCheck={false}
        maxLength={4096}
        error={fault || undefined}
        value={typed}
        onChange={(e) => {
          setTyped(e.currentTarget.value);
          setWaiting(false);
        }}
        onKeyDown={(e) => {
          if (e.key !== 'ArrowUp' && e.key !== 'ArrowDown') return;
          e.preventDefault();
          setTyped(e.key === 'ArrowUp' ? history.current.older(typed) : history.current.newer(typed));
        }}
      />
      <ActionIcon
        type="submit"
        size={40}
        aria-label={t('console.send')}
        disabled={!running || typed.trim() === ''} // not for want of a connection: Enter would do nothing, and say nothing
      >
        <IconSend2 size={19} aria-hidden="true" />
      </ActionIcon>
    </form>
  );
}
