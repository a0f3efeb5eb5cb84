import { MantineProvider } from '@mantine/core';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { cleanup, fireEvent, render, screen, waitFor } from '@testing-library/react';
import type { ReactNode } from 'react';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Role } from '@/api/views';
import { Answer, aPanel } from '@/page.testing';
import { anInvite, aRole, aServer, permissions, someRoles } from '@/testing';
import { day } from '../format';
import { initials } from './Face';
import { InviteForm } from './InviteForm';
import { InviteList } from './InviteList';
import { RoleCard } from './RoleCard';
import { RoleEditor } from './RoleEditor';
import { RoleSelect } from './RoleSelect';

afterEach(cleanup);

function show(ui: ReactNode) {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  const all = (inside: ReactNode) => (
    <MantineProvider env="test">
      <QueryClientProvider client={client}>{inside}</QueryClientProvider>
    </MantineProvider>
  );
  const { rerender } = render(all(ui));
  return { again: (next: ReactNode) => rerender(all(next)) };
}
const button = (name: string | RegExp) => screen.getByRole('button', { name }) as HTMLButtonElement;
const field = (name: string) => screen.getByLabelText(name) as HTMLInputElement;
const send = () => fireEvent.click(button('Send the invitation'));

describe('initials', () => {
  it('are of the first and the last word, whatever the writing', () => {
    expect(initials('Max Member')).toBe('MM');
    expect(initials('ana maria keller')).toBe('AK');
    expect(initials('fred.friend@example.org')).toBe('F');
    expect(initials('  Zoë ')).toBe('Z');
    expect(initials('夜 鷹')).toBe('夜鷹');
    expect(initials('')).toBe('');
  });
});

describe('day', () => {
  it('reads both ways in which the panel writes times, and is empty for none', () => {
    expect(day('2026-12-04T10:00:00Z')).toBe(day('2026-12-04 10:00:00.000Z'));
    expect(day('2026-12-04T10:00:00Z')).toContain('2026');
    expect(day('')).toBe('');
  });
});

describe('RoleSelect', () => {
  const roles = someRoles().items;
  it('offers no role that is beyond the viewer’s, and says what the chosen one is for', () => {
    const chosen = vi.fn();
    show(<RoleSelect label="Role" roles={roles} value="role00000000004" onChange={chosen} />);
    const select = screen.getByLabelText('Role') as HTMLSelectElement;
    expect([...select.options].map((o) => o.text)).toEqual(['Support', 'Member', 'Console only']);
    expect(screen.getByText('Sees servers, reads consoles, starts and restarts')).toBeTruthy();
    fireEvent.change(select, { target: { value: 'role0000000000x' } });
    expect(chosen).toHaveBeenCalledWith('role0000000000x');
  });
  it('has a name also where none is shown', () => {
    show(<RoleSelect bare single label="Role of Max" roles={roles} value="" onChange={vi.fn()} />);
    const select = screen.getByLabelText('Role of Max') as HTMLSelectElement;
    expect(select.selectedOptions[0]?.text).toBe('Only single servers');
    expect(screen.queryByText('Role of Max')).toBeNull();
  });
});

describe('InviteForm', () => {
  const roles = someRoles().items;
  const servers = { items: [aServer()], page: 1, per_page: 200, total: 1 };

  it('says each fault of the panel at its field', async () => {
    const data = {
      email: { code: 'email_invalid', message: 'No such address.' },
      role: { code: 'unknown', message: 'No such role.' },
      server: { code: 'unknown', message: 'No such server.' },
    };
    aPanel({
      'GET servers': servers,
      'POST tenants/owls/members/invite': new Answer(400, { code: 'invalid_input', message: 'Look.', data }),
    });
    show(<InviteForm org="owls" roles={roles} />);
    fireEvent.change(field('E-mail address'), { target: { value: 'a@b.c' } });
    send();
    for (const fault of Object.values(data)) await screen.findByText(fault.message);
    expect(field('E-mail address').value).toBe('a@b.c');
  });
  it('says at the role that it became one beyond the viewer’s', async () => {
    const message = 'This role may do more than yours.';
    aPanel({
      'GET servers': servers,
      'POST tenants/owls/members/invite': new Answer(403, { code: 'role_beyond_yours', message }),
    });
    show(<InviteForm org="owls" roles={roles} />);
    fireEvent.change(field('E-mail address'), { target: { value: 'a@b.c' } });
    send();
    await screen.findByText(message);
    expect(field('Role').getAttribute('aria-invalid')).toBe('true');
  });
  it('chooses another role when the chosen one is gone', async () => {
    const panel = aPanel({ 'GET servers': servers, 'POST tenants/owls/members/invite': new Answer(201, anInvite()) });
    const { again } = show(<InviteForm org="owls" roles={roles} />);
    fireEvent.change(field('E-mail address'), { target: { value: 'a@b.c' } });
    fireEvent.change(field('Role'), { target: { value: 'role0000000000x' } });
    again(<InviteForm org="owls" roles={roles.filter((r: Role) => r.id !== 'role0000000000x')} />);
    expect(field('Role').value).toBe('role00000000004');
    expect(field('E-mail address').value).toBe('a@b.c');
    send();
    await waitFor(() => expect(panel.wrote()).toHaveLength(1));
    expect(panel.asked.find((one) => one.method === 'POST')?.body).toEqual({
      email: 'a@b.c',
      role: 'role00000000004',
    });
  });
  it('says where to invite from when not all servers are listed', async () => {
    aPanel({ 'GET servers': { ...servers, total: 201 } });
    show(<InviteForm org="owls" roles={roles} />);
    await screen.findByText(/Only the first 200 servers are listed/);
  });
  it('sends one invitation, however often the button is pressed', async () => {
    const panel = aPanel({ 'POST tenants/owls/members/invite': new Answer(201, anInvite()) });
    show(<InviteForm org="owls" roles={roles} server="s1" />);
    fireEvent.change(field('E-mail address'), { target: { value: 'a@b.c' } });
    send();
    send();
    await waitFor(() => expect(field('E-mail address').value).toBe(''));
    expect(panel.wrote()).toEqual(['POST tenants/owls/members/invite']);
    expect(panel.asked.some((one) => one.url.startsWith('servers'))).toBe(false); // the server is known
  });
});

describe('InviteList', () => {
  it('says for what and until when, and who invited where that is known', () => {
    const one = anInvite({ server: 's', server_name: 'Friday night', role_name: 'Console only' });
    show(<InviteList org="owls" invites={[one, anInvite({ id: 'i2', email: 'x@example.org', invited_by: '' })]} />);
    const [first, second] = screen.getAllByTestId('invite').map((row) => row.textContent ?? '');
    expect(first).toContain('Console only on Friday night, invited by Olivia Owner');
    expect(second).toContain('Member of the whole organisation');
    expect(second).not.toContain('invited by');
    expect(button('Take back the invitation to x@example.org')).toBeTruthy();
  });
  it('takes nothing back when one thinks better of it', async () => {
    const panel = aPanel({});
    show(<InviteList org="owls" invites={[anInvite()]} />);
    fireEvent.click(button(/^Take back/));
    await screen.findByText(/stops working/);
    fireEvent.click(button('Cancel'));
    expect(panel.wrote()).toEqual([]);
  });
});

describe('RoleCard', () => {
  const card = (role: Role, manage = true) => (
    <RoleCard role={role} permissions={someRoles().permissions} {...{ manage, onEdit: vi.fn(), onDelete: vi.fn() }} />
  );
  it('counts who has it, and says of an empty one that it may do nothing', () => {
    show(card(aRole({ members: 3, permissions: [], system: false })));
    expect(screen.getByText('3 members')).toBeTruthy();
    expect(screen.getByText('May do nothing yet.')).toBeTruthy();
  });
  it('is only to read for those who manage no roles', () => {
    show(card(aRole({ system: false }), false));
    expect(screen.queryByRole('button')).toBeNull();
    expect(screen.queryByText(/you cannot change it/)).toBeNull();
  });
});

describe('RoleEditor', () => {
  const all = permissions(['server.read', 'server.stop', 'role.manage'], ['server.stop']);
  it('keeps everything typed when the panel cannot be reached, and closes only once it is saved', async () => {
    const close = vi.fn();
    const panel = aPanel({ 'POST tenants/owls/roles': new Answer(503, { code: 'busy', message: 'Busy.' }) });
    show(<RoleEditor org="owls" edited={null} permissions={all} onClose={close} />);
    expect(document.activeElement).toBe(field('Name of the role'));
    fireEvent.click(button('Make the role'));
    await screen.findByText('Give it a name.');
    fireEvent.change(field('Name of the role'), { target: { value: 'Guests' } });
    fireEvent.change(field('What it is for'), { target: { value: 'Friends of friends' } });
    fireEvent.click(screen.getByRole('checkbox', { name: 'See servers' }));
    fireEvent.click(button('Make the role'));
    await waitFor(() => expect(panel.wrote()).toHaveLength(1));
    await waitFor(() => expect(button('Make the role').hasAttribute('data-loading')).toBe(false));
    expect(close).not.toHaveBeenCalled();
    expect(field('What it is for').value).toBe('Friends of friends');
    panel.routes['POST tenants/owls/roles'] = new Answer(201, aRole({ name: 'Guests' }));
    fireEvent.click(button('Make the role'));
    await waitFor(() => expect(close).toHaveBeenCalledTimes(1));
    expect(panel.asked.at(-1)?.body).toEqual({
      name: 'Guests',
      description: 'Friends of friends',
      permissions: ['server.read'],
    });
  });
  it('says that one’s own rights became less meanwhile', async () => {
    const message = 'You can put into a role only what you may do yourself.';
    aPanel({ 'POST tenants/owls/roles': new Answer(403, { code: 'role_beyond_yours', message }) });
    show(<RoleEditor org="owls" edited={null} permissions={all} onClose={vi.fn()} />);
    fireEvent.change(field('Name of the role'), { target: { value: 'Guests' } });
    fireEvent.click(button('Make the role'));
    expect((await screen.findByRole('alert')).textContent).toBe(message);
  });
  it('does not give by a preset what one has not got', () => {
    show(<RoleEditor org="owls" edited={null} permissions={all} onClose={vi.fn()} />);
    fireEvent.click(button(/^Everything about servers/));
    expect((screen.getByRole('checkbox', { name: 'See servers' }) as HTMLInputElement).checked).toBe(true);
    const stop = screen.getByRole('checkbox', { name: 'Stop' }) as HTMLInputElement;
    expect([stop.checked, stop.disabled]).toEqual([false, true]);
    expect(document.getElementById(stop.getAttribute('aria-describedby') ?? '')?.textContent).toMatch(/cannot give it/);
  });
});
