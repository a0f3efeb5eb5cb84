import { MantineProvider } from '@mantine/core';
import { cleanup, fireEvent, render, screen } from '@testing-library/react';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { readGame, type Variable } from '@/api/blueprints';
import { VariableField } from './VariableField';

afterEach(cleanup);

const variable = (raw: object): Variable =>
  readGame({ form: { variables: [{ key: 'K', name: 'Thing', editable: true, ...raw }] } }).variables[0] as Variable;

function show(raw: object, value: string, more: object = {}) {
  const onChange = vi.fn();
  render(
    <MantineProvider env="test">
      <VariableField variable={variable(raw)} value={value} onChange={onChange} {...more} />
    </MantineProvider>,
  );
  return onChange;
}

describe('VariableField', () => {
  it('is a switch for yes and no, in the panel’s words', () => {
    const changed = show({ type: 'bool' }, 'false');
    const box = screen.getByRole('switch') as HTMLInputElement;
    expect(box.checked).toBe(false);
    fireEvent.click(box);
    expect(changed).toHaveBeenCalledWith('true');
  });
  it('marks what has to be accepted, for eyes alone: the name stays the name', () => {
    show({ type: 'bool', name: 'I accept the EULA', accepted: true }, 'false');
    expect(screen.getByText('*')).toBeTruthy();
    expect(screen.getByRole('switch', { name: 'I accept the EULA' })).toBeTruthy();
    cleanup();
    show({ type: 'bool', name: 'Whitelist' }, 'false');
    expect(screen.queryByText('*')).toBeNull();
  });
  it('offers the choices, and keeps one that the game has no more', () => {
    const changed = show({ type: 'enum', options: [{ value: 'a', label: 'Easy' }, 'b'] }, 'gone');
    const box = screen.getByRole('combobox') as HTMLSelectElement;
    expect([...box.options].map((o) => o.text)).toEqual(['gone', 'Easy', 'b']);
    expect(box.value).toBe('gone');
    fireEvent.change(box, { target: { value: 'b' } });
    expect(changed).toHaveBeenCalledWith('b');
  });
  it('never shows a secret, and says that one is set', () => {
    show({ type: 'secret', required: true }, '', { kept: true });
    const field = document.querySelector('input') as HTMLInputElement;
    expect(field.type).toBe('password');
    expect(field.autocomplete).toBe('new-password');
    expect(screen.queryByText('*')).toBeNull(); // it is there already
    expect(document.body.textContent).toMatch(/set/i);
  });
  it('asks for numbers with a number pad and takes any text, which the rules judge', () => {
    const changed = show({ type: 'int' }, '5');
    const field = screen.getByRole('textbox') as HTMLInputElement;
    expect(field.inputMode).toBe('numeric');
    fireEvent.change(field, { target: { value: 'five' } });
    expect(changed).toHaveBeenCalledWith('five');
  });
  it('says what is wrong where it is wrong', () => {
    show({ type: 'string', description: 'Greets people.' }, 'x', { error: 'Use at least 3 characters.' });
    const field = screen.getByRole('textbox');
    expect(field.getAttribute('aria-invalid')).toBe('true');
    const told = (field.getAttribute('aria-describedby') ?? '')
      .split(' ')
      .map((id) => document.getElementById(id)?.textContent);
    expect(told.join(' ')).toContain('Use at least 3 characters.');
    expect(told.join(' ')).toContain('Greets people.');
  });
  it('shows and does not change what only the operator may set', () => {
    show({ type: 'string', editable: false }, 'fixed');
    expect((screen.getByRole('textbox') as HTMLInputElement).disabled).toBe(true);
    expect(screen.getByDisplayValue('fixed')).toBeTruthy();
  });
});
