import { MantineProvider } from '@mantine/core';
import { cleanup, fireEvent, render, screen } from '@testing-library/react';
import { afterEach, expect, it, vi } from 'vitest';
import { Confirm } from './Confirm';

afterEach(cleanup);

function show(differs: Partial<Parameters<typeof Confirm>[0]> = {}) {
  const onConfirm = vi.fn();
  const onClose = vi.fn();
  const all = (more = {}) => (
    <MantineProvider env="test">
      <Confirm
        opened
        title="Delete Friday night?"
        confirm="Delete"
        busy={false}
        {...{ onConfirm, onClose }}
        {...differs}
        {...more}
      >
        All of its world is lost.
      </Confirm>
    </MantineProvider>
  );
  const { rerender } = render(all());
  return { onConfirm, onClose, again: (more: object) => rerender(all(more)) };
}
const button = (name: string) => screen.getByRole('button', { name }) as HTMLButtonElement;

it('says what is lost, and does it at one click when nothing has to be typed', () => {
  const { onConfirm } = show();
  expect(screen.getByText('All of its world is lost.')).toBeTruthy();
  fireEvent.click(button('Delete'));
  expect(onConfirm).toHaveBeenCalledTimes(1);
});

it('does nothing before the name is typed, also not by Enter', () => {
  const { onConfirm } = show({ typed: 'Friday night' });
  const field = screen.getByRole('textbox') as HTMLInputElement;
  for (const wrong of ['', 'friday night', 'Friday', 'Friday night!']) {
    fireEvent.change(field, { target: { value: wrong } });
    expect(button('Delete').disabled).toBe(true);
    fireEvent.submit(field.form as HTMLFormElement);
  }
  expect(onConfirm).not.toHaveBeenCalled();
  fireEvent.change(field, { target: { value: ' Friday night ' } });
  fireEvent.submit(field.form as HTMLFormElement);
  expect(onConfirm).toHaveBeenCalledTimes(1);
});

it('forgets what was typed when it is cancelled', () => {
  const { onClose, onConfirm } = show({ typed: 'Friday night' });
  fireEvent.change(screen.getByRole('textbox'), { target: { value: 'Friday night' } });
  fireEvent.click(button('Cancel'));
  expect(onClose).toHaveBeenCalledTimes(1);
  expect((screen.getByRole('textbox') as HTMLInputElement).value).toBe('');
  expect(onConfirm).not.toHaveBeenCalled();
});

it('cannot be confirmed twice while it runs', () => {
  const { onConfirm, again } = show();
  again({ busy: true });
  fireEvent.click(button('Delete'));
  expect(onConfirm).not.toHaveBeenCalled();
});
