import { MantineProvider } from '@mantine/core';
import { cleanup, fireEvent, render, screen } from '@testing-library/react';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Limits } from '@/api/views';
import { type Sliders, sliders, stops } from '@/stores/sizing';
import { SizeFields } from './SizeFields';

afterEach(cleanup);

const endless = Number.POSITIVE_INFINITY;
const free = { servers: endless, memory_mib: endless, cpu_millicores: endless, disk_mib: endless };
const game = {
  resources: {
    memoryMib: { min: 1024, recommended: 2048 },
    cpuMillicores: { min: 500, recommended: 1000 },
    diskGib: { min: 2, recommended: 5 },
  },
  hints: [
    { memoryMib: 2048, players: 10, text: '' },
    { memoryMib: 4096, players: 0, text: 'A whole village.' },
  ],
};
const chosen: Limits = { memory_mib: 2048, cpu_millicores: 1000, disk_gib: 5 };

function show(
  differs: { limits?: Partial<Limits>; range?: Sliders; errors?: Record<string, string>; disabled?: boolean } = {},
) {
  const onChange = vi.fn();
  render(
    <MantineProvider env="test">
      <SizeFields
        game={game}
        sliders={differs.range ?? sliders(game, free, [])}
        limits={{ ...chosen, ...differs.limits }}
        errors={differs.errors ?? {}}
        disabled={differs.disabled}
        onChange={onChange}
      />
    </MantineProvider>,
  );
  return onChange;
}
const slider = (name: RegExp) => screen.getByRole('slider', { name });

describe('SizeFields', () => {
  it('names each slider, says its value as people read it, and how far it goes', () => {
    show();
    expect(screen.getAllByRole('slider')).toHaveLength(3);
    expect(slider(/memory/i).getAttribute('aria-valuetext')).toBe('2 GiB');
    expect(slider(/cpu|processor/i).getAttribute('aria-valuetext')).toBe('1 core');
    expect(slider(/disk|storage/i).getAttribute('aria-valuetext')).toBe('5 GiB');
  });
  it('changes one limit by the keyboard and keeps the others', () => {
    const changed = show();
    fireEvent.keyDown(slider(/memory/i), { key: 'ArrowRight', code: 'ArrowRight' });
    const next = stops(sliders(game, free, []).memory_mib, 2048).find((n) => n > 2048);
    expect(changed).toHaveBeenCalledWith({ ...chosen, memory_mib: next });
  });
  it('says how many can play, in the game’s words where it has them', () => {
    show();
    expect(document.body.textContent).toContain('10');
    cleanup();
    show({ limits: { memory_mib: 4096 } });
    expect(screen.getByText('A whole village.')).toBeTruthy();
  });
  it('says when it is less than the game would like', () => {
    show({ limits: { memory_mib: 1024, disk_gib: 2 } });
    expect(document.body.textContent).toContain('2 GiB');
    expect(document.body.textContent).toContain('5 GiB');
  });
  it('shows the panel’s word on a limit at that limit', () => {
    show({ errors: { memory_mib: 'The organisation has 512 MiB left.' } });
    const alerts = screen.getAllByRole('alert');
    expect(alerts).toHaveLength(1);
    expect(alerts[0]?.textContent).toBe('The organisation has 512 MiB left.');
  });
  it('cannot be moved where there is no room, or while it is sent', () => {
    const full = sliders(game, { ...free, memory_mib: 1024 }, []);
    expect(full.memory_mib.max).toBe(full.memory_mib.min);
    const changed = show({ range: full, limits: { memory_mib: 1024 } });
    fireEvent.keyDown(slider(/memory/i), { key: 'ArrowRight', code: 'ArrowRight' });
    expect(changed).not.toHaveBeenCalled();
    cleanup();
    const still = show({ disabled: true });
    for (const one of screen.getAllByRole('slider')) fireEvent.keyDown(one, { key: 'End', code: 'End' });
    expect(still).not.toHaveBeenCalled();
  });
});
