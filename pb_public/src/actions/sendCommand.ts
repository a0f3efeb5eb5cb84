// Sends one line to a game's console.
import type { ConsoleLink } from '@/stores/console';
import type { CommandHistory } from '@/stores/history';

export const MAX_COMMAND_BYTES = 4096; // wire.MaxCommandBytes

/** False when it was not sent: nothing typed, too long, or no connection. The field keeps it then. */
export function sendCommand(link: Pick<ConsoleLink, 'send'>, history: CommandHistory, typed: string): boolean {
  const command = typed.replace(/[\r\n]+/g, ' ').trim();
  if (command === '' || new TextEncoder().encode(command).length > MAX_COMMAND_BYTES) return false;
  if (!link.send(command)) return false;
  history.push(command);
  return true;
}
