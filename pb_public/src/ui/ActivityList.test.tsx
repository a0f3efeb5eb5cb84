import { MantineProvider } from '@mantine/core';
import { cleanup, fireEvent, render, screen } from '@testing-library/react';
import { afterEach, expect, it, vi } from 'vitest';
import { ApiError } from '@/api/error';
import type { Activity } from '@/api/views';
import { ActivityList } from './ActivityList';

afterEach(cleanup);

const one = (differs: object): Activity =>
  ({
    id: 'a1',
    kind: 'server.start',
    at: '2026-11-22T10:00:00Z',
    actor: { type: 'user', name: 'Ana' },
    payload: {},
    ...differs,
  }) as Activity;

function show(items: Activity[] | undefined, error?: unknown) {
  const retry = vi.fn();
  render(
    <MantineProvider env="test">
      <ActivityList items={items} error={error} retry={retry} />
    </MantineProvider>,
  );
  return retry;
}

it('says who did what and when, in the order that came', () => {
  show([
    one({ id: 'a', kind: 'server.start' }),
    one({ id: 'b', kind: 'server.crashed', actor: { type: 'node', name: '' } }),
    one({ id: 'c', kind: 'server.phase_changed', payload: { to: 'RUNNING' }, actor: { type: 'system', name: '' } }),
  ]);
  const rows = screen.getAllByRole('listitem').map((li) => li.textContent ?? '');
  expect(rows).toHaveLength(3);
  expect(rows[0]).toMatch(/Started the server.*Ana/);
  expect(rows[1]).toMatch(/The server crashed/);
  expect(rows[2]).toMatch(/Status changed to “Running”/);
  expect(document.querySelectorAll('time[datetime="2026-11-22T10:00:00Z"]')).toHaveLength(3);
});

it('has words for a kind that it does not know', () => {
  show([one({ kind: 'server.teleported' })]);
  expect(screen.getByText(/server\.teleported/)).toBeTruthy();
});

it('says that it loads, that there is nothing, and what went wrong', () => {
  show(undefined);
  expect(document.querySelector('[aria-busy="true"]')).toBeTruthy();
  cleanup();
  show([]);
  expect(screen.queryByRole('list')).toBeNull();
  expect(document.body.textContent?.length).toBeGreaterThan(10);
  cleanup();
  const retry = show(undefined, new ApiError(503, 'unavailable', 'The panel is being updated.', {}, 'req-77'));
  expect(screen.getByRole('alert').textContent).toContain('The panel is being updated.');
  expect(screen.getByRole('alert').textContent).toContain('req-77');
  fireEvent.click(screen.getByRole('button', { name: 'Try again' }));
  expect(retry).toHaveBeenCalledTimes(1);
});

it('keeps what it has when a later load fails', () => {
  show([one({})], new ApiError(0, 'network', 'No connection.'));
  expect(screen.queryByRole('alert')).toBeNull();
  expect(screen.getAllByRole('listitem')).toHaveLength(1);
});
