import { MantineProvider } from '@mantine/core';
import { cleanup, fireEvent, render, screen } from '@testing-library/react';
import { afterEach, expect, it } from 'vitest';
import type { ConsoleLink, Link } from '@/stores/console';
import { aServer } from '@/testing';
import { CommandLine } from './CommandLine';

afterEach(cleanup);

function aLink() {
  const sent: string[] = [];
  return { sent, send: (c: string) => sent.push(c) > 0, onFault: () => () => undefined };
}

const line = (link: ReturnType<typeof aLink>, state: Link, writable = true) => (
  <MantineProvider>
    <CommandLine link={link as unknown as ConsoleLink} state={state} server={aServer()} writable={writable} />
  </MantineProvider>
);
const field = () => screen.getByLabelText('Command') as HTMLInputElement;
const enter = (text: string) => {
  fireEvent.change(field(), { target: { value: text } });
  // As a browser: Enter does nothing while the form's button is disabled.
  const form = field().form as HTMLFormElement;
  if (!form.querySelector<HTMLButtonElement>('button[type="submit"]')?.disabled) fireEvent.submit(form);
};

it('sends, empties the field and brings it back with arrow up', () => {
  const link = aLink();
  render(line(link, { kind: 'live' }));
  enter('say hello');
  expect(link.sent).toEqual(['say hello']);
  expect(field().value).toBe('');
  fireEvent.keyDown(field(), { key: 'ArrowUp' });
  expect(field().value).toBe('say hello');
});

it('sends what was typed before the console was there, once it is, and once', () => {
  const link = aLink();
  const { rerender } = render(line(link, { kind: 'connecting' }));
  enter('say early');
  expect(link.sent).toEqual([]);
  rerender(line(link, { kind: 'history' }));
  rerender(line(link, { kind: 'live' }));
  expect(link.sent).toEqual(['say early']);
  expect(field().value).toBe('');
});

it('keeps what was typed, and says so, while the connection is lost', () => {
  const link = aLink();
  const { rerender } = render(line(link, { kind: 'lost', since: 1 }));
  enter('stop');
  expect(screen.getByText(/Not sent/)).toBeTruthy();
  rerender(line(link, { kind: 'live' }));
  expect(link.sent).toEqual([]);
  expect(field().value).toBe('stop');
});

it('offers nothing to type to who may only read', () => {
  render(line(aLink(), { kind: 'live' }, false));
  expect(screen.queryByLabelText('Command')).toBeNull();
  expect(screen.getByText(/not type into it/)).toBeTruthy();
});
