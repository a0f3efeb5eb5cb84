import { MantineProvider } from '@mantine/core';
import { QueryClientProvider } from '@tanstack/react-query';
import { cleanup, fireEvent, render, screen, waitFor } from '@testing-library/react';
import { afterEach, expect, it, vi } from 'vitest';
import type { Metrics } from '@/api/views';
import { newQueryClient } from '@/stores/queries';
import { answering, someMetrics } from '@/testing';
import { UsageCard } from './UsageCard';

// Drawing needs a canvas, which jsdom has not; the browser journey looks at the real one.
vi.mock('./UsageChart', () => ({ default: ({ label }: { label: string }) => <div role="img" aria-label={label} /> }));

vi.setConfig({ testTimeout: 20_000 }); // a busy machine takes 9 s to draw the first card
afterEach(cleanup);

function show(...answers: { status: number; body?: unknown }[]) {
  const asked = answering(...answers);
  render(
    <QueryClientProvider client={newQueryClient()}>
      <MantineProvider>
        <UsageCard org="acme" id="server000000001" />
      </MantineProvider>
    </QueryClientProvider>,
  );
  return asked;
}

const ok = (differs: Partial<Metrics> = {}) => ({ status: 200, body: someMetrics(differs) });
const of = (name: string) => screen.getByTestId(`usage-${name}`).textContent;

it('says what the server uses now, of what it may', async () => {
  show(ok());
  await waitFor(() => expect(of('CPU')).toBe('0.25 cores of 1 core'));
  expect(of('Memory')).toBe('512 MiB of 1 GiB');
  expect(of('Network')).toBe('1 KiB/s in, 2 KiB/s out');
  expect(of('Disk')).toBe('1 GiB of 4 GiB');
  expect(await screen.findByLabelText('CPU, last 1 hour: now 0.25 cores, highest 0.25 cores')).toBeTruthy();
});

it('says that a stopped server is off, and still what its disk takes', async () => {
  show(ok({ running_ms: [30_000, 0], cpu_millicores: [250, 0] }));
  await waitFor(() => expect(of('CPU')).toBe('off'));
  expect(of('Disk')).toBe('1 GiB of 4 GiB');
});

it('does not call old values the present ones', async () => {
  show(ok({ now_unix_s: 1_800_000_600, from_unix_s: 1_799_999_940 }));
  await waitFor(() => expect(of('CPU')).toContain('not known'));
  expect(screen.getByText(/^Last measured/)).toBeTruthy();
});

it('says what comes when nothing was measured yet', async () => {
  show(ok({ running_ms: [null, null] }));
  expect(await screen.findByText('Nothing measured yet')).toBeTruthy();
  expect(screen.queryByRole('img')).toBeNull();
});

it('says what happened when the usage cannot be loaded, and tries again', async () => {
  const asked = show({ status: 403, body: { status: 403, code: 'forbidden', message: 'You may not see this.' } }, ok());
  expect((await screen.findByRole('alert')).textContent).toContain('You may not see this.');
  fireEvent.click(screen.getByText('Try again'));
  await waitFor(() => expect(of('CPU')).toContain('0.25'));
  expect(asked).toHaveLength(2);
});

it('asks for the day and remembers the choice', async () => {
  const asked = show(ok(), ok({ range: '24h', step_s: 300 }));
  await waitFor(() => expect(of('CPU')).toContain('0.25'));
  fireEvent.click(screen.getByLabelText('24 hours'));
  await waitFor(() => expect(asked).toHaveLength(2));
  expect(asked[1]?.url).toContain('range=24h');
  cleanup();
  const again = show(ok({ range: '24h', step_s: 300 }));
  await waitFor(() => expect(again).toHaveLength(1));
  expect(again[0]?.url).toContain('range=24h');
});
