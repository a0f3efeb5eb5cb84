import { act, cleanup, fireEvent, render, screen } from '@testing-library/react';
import { afterEach, expect, it, vi } from 'vitest';
import { CopyAddress } from './CopyAddress';

afterEach(cleanup);

const click = () => act(async () => fireEvent.click(screen.getByRole('button')));
const said = () => screen.getByRole('status').textContent;

it('copies, says so, and is ready to be asked again', async () => {
  vi.useFakeTimers();
  const writeText = vi.fn(async () => undefined);
  vi.stubGlobal('navigator', { clipboard: { writeText } });
  render(<CopyAddress address="203.0.113.7:25565" />);
  expect(said()).toBe('');
  await click();
  expect(writeText).toHaveBeenCalledWith('203.0.113.7:25565');
  expect(said()).toBe('Copied');
  act(() => void vi.advanceTimersByTime(2000));
  expect(said()).toBe('');
});

it('copies where the browser has no clipboard for pages without TLS', async () => {
  vi.stubGlobal('navigator', {});
  const copied = vi.fn(() => {
    const field = document.activeElement as HTMLTextAreaElement;
    return field.value === '203.0.113.7:25565';
  });
  document.execCommand = copied;
  render(<CopyAddress address="203.0.113.7:25565" />);
  await click();
  expect(copied).toHaveBeenCalledTimes(1);
  expect(said()).toBe('Copied');
  expect(document.querySelector('textarea')).toBeNull();
});

it('does not say that it copied what it could not', async () => {
  vi.stubGlobal('navigator', { clipboard: { writeText: () => Promise.reject(new Error('denied')) } });
  document.execCommand = () => {
    throw new Error('denied, too');
  };
  render(<CopyAddress address="203.0.113.7:25565" />);
  await click();
  expect(said()).toBe('');
  expect(document.querySelector('textarea')).toBeNull();
});
