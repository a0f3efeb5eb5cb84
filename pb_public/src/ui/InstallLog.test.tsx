import { MantineProvider } from '@mantine/core';
import { act, cleanup, render, screen } from '@testing-library/react';
import { afterEach, expect, it } from 'vitest';
import { type ConsoleDeps, ConsoleLink, type Socket } from '@/stores/console';
import { InstallLog } from './InstallLog';
import { InstallSteps } from './InstallSteps';

afterEach(cleanup);

/** A console of which the test is the panel. */
async function aConsole() {
  const socket: Socket = {
    onopen: null,
    onmessage: null,
    onclose: null,
    send: () => undefined,
    close: () => undefined,
  };
  const deps: ConsoleDeps = { token: async () => 'token', dial: () => socket };
  const link = new ConsoleLink('server000000001', deps);
  link.start();
  await act(async () => undefined);
  const say = (frame: object) => act(() => socket.onmessage?.({ data: JSON.stringify(frame) }));
  return { link, say };
}
const line = (seq: number, text: string) => ({ seq, at: '2026-11-22T10:00:00Z', stream: 'install', text });
const shown = () => screen.getByRole('log').textContent;
const show = (link: ConsoleLink | null, kept = '') =>
  render(
    <MantineProvider env="test">
      <InstallLog link={link} kept={kept} />
    </MantineProvider>,
  );

it('shows what comes, without colours and cursor movements', async () => {
  const { link, say } = await aConsole();
  show(link);
  await say({ lines: [line(1, '\u001b[32mfetching\u001b[0m'), line(2, '\u001b[2Kdone')] });
  expect(shown()).toBe('fetching\ndone');
  link.stop();
});

it('says where lines are missing, and shows none twice', async () => {
  const { link, say } = await aConsole();
  show(link);
  await say({ lines: [line(1, 'one')] });
  await say({ lines: [line(1, 'one'), line(4, 'four')] });
  const rows = shown()?.split('\n') ?? [];
  expect(rows).toHaveLength(3);
  expect(rows[0]).toBe('one');
  expect(rows[1]).toContain('2');
  expect(rows[2]).toBe('four');
  link.stop();
});

it('keeps to the end of a long log', async () => {
  const { link, say } = await aConsole();
  show(link);
  await say({ lines: Array.from({ length: 900 }, (_, i) => line(i + 1, `line ${i + 1}`)) });
  const rows = shown()?.split('\n') ?? [];
  expect(rows).toHaveLength(400);
  expect(rows.at(-1)).toBe('line 900');
  link.stop();
});

it('shows the kept end when nothing comes any more', () => {
  show(null, 'unpacking\r\n\u001b[31mexit 1\u001b[0m');
  expect(shown()).toBe('unpacking\nexit 1');
});

it('marks the step that runs and the one that failed, also for who cannot see', () => {
  render(
    <InstallSteps
      steps={
        [
          { key: 'reserve', text: 'install.reserve', state: 'done', percent: 0, message: '' },
          { key: 'pull', text: 'install.pull', state: 'now', percent: 40, message: '12 of 30 MiB' },
          { key: 'install', text: 'install.install', state: 'failed', percent: 0, message: 'Exit code 1.' },
        ] as never
      }
    />,
  );
  const steps = screen.getAllByRole('listitem');
  expect(steps.map((s) => s.getAttribute('aria-current'))).toEqual([null, 'step', null]);
  expect(screen.getByRole('progressbar').getAttribute('value')).toBe('40');
  expect(steps[1]?.textContent).toContain('12 of 30 MiB');
  expect(steps[2]?.textContent).toContain('Exit code 1.');
});
