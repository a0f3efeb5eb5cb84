import { cleanup, render, screen } from '@testing-library/react';
import { afterEach, expect, it, vi } from 'vitest';
import { CrashPage, isMissingPart } from './wholePages';

afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

it('tells a part that could not be fetched from a fault of ours', () => {
  for (const said of [
    'Failed to fetch dynamically imported module: http://x/assets/a.js',
    'error loading dynamically imported module: http://x/assets/a.js',
    'Importing a module script failed.',
  ])
    expect(isMissingPart(new TypeError(said))).toBe(true);
  expect(isMissingPart(new TypeError('x is undefined'))).toBe(false);
  expect(isMissingPart('dynamically imported module')).toBe(false);
});

it('asks until the panel answers, and stops when one leaves', async () => {
  vi.useFakeTimers();
  const asked = vi.fn(async () => Promise.reject(new TypeError('Failed to fetch')));
  vi.stubGlobal('fetch', asked);
  const { unmount } = render(<CrashPage error={new TypeError('Failed to fetch dynamically imported module: a')} />);
  expect(screen.getByRole('heading').textContent).toBe('This page could not be fetched');
  await vi.advanceTimersByTimeAsync(6500);
  expect(asked.mock.calls).toEqual([['/api/health'], ['/api/health']]);
  unmount();
  await vi.advanceTimersByTimeAsync(6500);
  expect(asked).toHaveBeenCalledTimes(2);
});

it('says of any other fault that the page stopped', () => {
  render(<CrashPage error={new Error('x')} />);
  expect(screen.getByRole('heading').textContent).toBe('This page stopped working');
});
