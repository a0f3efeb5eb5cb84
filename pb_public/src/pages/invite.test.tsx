import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor } from '@testing-library/react';
import { afterEach, describe, expect, it } from 'vitest';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';
import { dropInvitation, keptInvitation } from '@/stores/invitation';
import { session } from '@/stores/session';
import { aServer, aToken, aUser } from '@/testing';

afterEach(() => {
  cleanup();
  dropInvitation();
  notifications.clean();
});

const PATIENCE = { timeout: 10_000 };
const LINK = '/invite#id=i1&token=secret';
const offer = {
  email: aUser.email,
  tenant_name: 'Night Owls',
  role_name: 'Console only',
  server_name: '',
  invited_by: 'Olivia Owner',
  expires_at: '2026-12-04T10:00:00Z',
};
const ended = new Answer(404, { code: 'invite_not_found', message: 'This invitation does not exist.' });
const joined = { id: 't1', name: 'Night Owls', slug: 'owls', status: 'ACTIVE', rev: 1, role: 'MEMBER' };
const panelWith = (differs: object = {}) =>
  aPanel({ ...anOrganisation(), 'POST invites/i1/preview': offer, 'POST invites/i1/accept': joined, ...differs });
const link = (name: string) => screen.getByRole('link', { name }) as HTMLAnchorElement;

describe('somebody without a session', () => {
  it('sees who invites, to what and until when, and the token leaves the address', async () => {
    const panel = panelWith();
    const { at } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    expect(screen.getByText('Olivia Owner invites you to Night Owls.')).toBeTruthy();
    for (const said of ['Console only', 'The whole organisation', aUser.email, 'December 4, 2026'])
      expect(screen.getByText(said)).toBeTruthy();
    await waitFor(() => expect(at()).toBe('/invite'));
    expect(panel.asked.find((one) => one.url === 'invites/i1/preview')?.body).toEqual({ token: 'secret' });
    expect(panel.asked.some((one) => one.url.includes('secret'))).toBe(false);
    expect(screen.queryByRole('button', { name: 'Accept the invitation' })).toBeNull();
  });
  it('is told of one server only, and of nobody when nobody is known any more', async () => {
    panelWith({ 'POST invites/i1/preview': { ...offer, server_name: 'Friday night', invited_by: '' } });
    showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Friday night' }, PATIENCE);
    expect(screen.getByText('You are invited to the server Friday night of Night Owls.')).toBeTruthy();
    expect(screen.getByText('Friday night, and nothing else')).toBeTruthy();
  });
  it('makes an account with that address, gets no second mail, and comes back', async () => {
    const panel = panelWith({
      'POST collections/users/records': aUser,
      'POST collections/users/auth-with-password': { token: aToken(), record: aUser },
    });
    const { at } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    await waitFor(() => expect(at()).toBe('/invite'));
    fireEvent.click(link('Create an account'));
    const email = (await screen.findByLabelText('E-mail address', {}, PATIENCE)) as HTMLInputElement;
    expect(email.value).toBe(aUser.email);
    expect(at()).not.toMatch(/secret|i1/);
    fireEvent.change(screen.getByLabelText('Your name'), { target: { value: 'Ana' } });
    fireEvent.change(screen.getByLabelText('Password'), { target: { value: 'a-long-password' } });
    fireEvent.click(screen.getByRole('button', { name: 'Create account' }));
    await screen.findByRole('button', { name: 'Accept the invitation' }, PATIENCE);
    expect(at()).toBe('/invite');
    expect(panel.wrote().filter((one) => one.includes('verification'))).toEqual([]);
  });
  it('makes an account with another address, which has to be confirmed, and is told that it is the wrong one', async () => {
    const other = { ...aUser, email: 'other@example.org' };
    const panel = panelWith({
      'POST collections/users/records': other,
      'POST collections/users/auth-with-password': { token: aToken(), record: other },
      'POST collections/users/request-verification': new Answer(204),
    });
    const { at } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    await waitFor(() => expect(at()).toBe('/invite'));
    fireEvent.click(link('Create an account'));
    fireEvent.change(await screen.findByLabelText('E-mail address', {}, PATIENCE), { target: { value: other.email } });
    fireEvent.change(screen.getByLabelText('Your name'), { target: { value: 'Ana' } });
    fireEvent.change(screen.getByLabelText('Password'), { target: { value: 'a-long-password' } });
    fireEvent.click(screen.getByRole('button', { name: 'Create account' }));
    await screen.findByText(/You are signed in as other@example.org/, {}, PATIENCE);
    expect(panel.wrote()).toContain('POST collections/users/request-verification');
  });
  it('goes from sign-up to sign-in and still comes back', async () => {
    panelWith();
    const { at } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    await waitFor(() => expect(at()).toBe('/invite'));
    fireEvent.click(link('Create an account'));
    await screen.findByRole('heading', { name: 'Create your account' }, PATIENCE);
    fireEvent.click(link('Sign in'));
    await screen.findByRole('heading', { name: 'Sign in' }, PATIENCE);
    expect(at()).toContain('next=%2Finvite');
    expect((screen.getByLabelText('E-mail address') as HTMLInputElement).value).toBe(aUser.email);
  });
  it('is not asked for that address when the way leads somewhere else', async () => {
    panelWith();
    const { router } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    await router.navigate({ to: '/sign-up' });
    await screen.findByRole('heading', { name: 'Create your account' }, PATIENCE);
    expect((screen.getByLabelText('E-mail address') as HTMLInputElement).value).toBe('');
  });
  it('signs in with that address and comes back', async () => {
    panelWith({ 'POST collections/users/auth-with-password': { token: aToken(), record: aUser } });
    const { at } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    await waitFor(() => expect(at()).toBe('/invite'));
    fireEvent.click(link('Sign in to accept'));
    const email = (await screen.findByLabelText('E-mail address', {}, PATIENCE)) as HTMLInputElement;
    expect(email.value).toBe(aUser.email);
    expect(link('Sign up').getAttribute('href')).toContain('next=%2Finvite');
    fireEvent.change(screen.getByLabelText('Password'), { target: { value: 'a-long-password' } });
    fireEvent.click(screen.getByRole('button', { name: 'Sign in' }));
    await screen.findByRole('button', { name: 'Accept the invitation' }, PATIENCE);
  });
});

describe('somebody who is signed in with the address', () => {
  it('accepts and lands in the organisation', async () => {
    signedIn();
    const panel = panelWith();
    const { at } = showPage(LINK);
    fireEvent.click(await screen.findByRole('button', { name: 'Accept the invitation' }, PATIENCE));
    await waitFor(() => expect(at()).toBe('/o/owls/servers'), PATIENCE);
    expect(panel.asked.find((one) => one.url === 'invites/i1/accept')?.body).toEqual({ token: 'secret' });
    expect(keptInvitation()).toBeNull();
  });
  it('lands on the server that it was for', async () => {
    signedIn();
    panelWith({
      'POST invites/i1/preview': { ...offer, server_name: 'Friday night', email: aUser.email.toUpperCase() },
      'GET servers': { items: [aServer()], page: 1, per_page: 50, total: 1 },
    });
    const { at } = showPage(LINK);
    fireEvent.click(await screen.findByRole('button', { name: 'Accept the invitation' }, PATIENCE));
    await waitFor(() => expect(at()).toBe('/o/owls/servers/server000000001'), PATIENCE);
  });
  it('is told what went wrong, and keeps the invitation', async () => {
    signedIn();
    const panel = panelWith({ 'POST invites/i1/accept': new Answer(403, { code: 'forbidden', message: 'Not now.' }) });
    showPage(LINK);
    fireEvent.click(await screen.findByRole('button', { name: 'Accept the invitation' }, PATIENCE));
    expect((await screen.findByRole('alert')).textContent).toBe('Not now.');
    expect(keptInvitation()?.token).toBe('secret');
    panel.routes['POST invites/i1/accept'] = ended; // taken back while one looked at it
    panel.routes['POST invites/i1/preview'] = ended;
    fireEvent.click(screen.getByRole('button', { name: 'Accept the invitation' }));
    await screen.findByRole('heading', { name: 'This invitation is over' });
  });
});

describe('what does not fit', () => {
  it('is another account: it says which, and signs out on the spot', async () => {
    signedIn();
    panelWith({ 'POST invites/i1/preview': { ...offer, email: 'fred@example.org' } });
    const { at } = showPage(LINK);
    await screen.findByText(
      /You are signed in as ana@example.org. This invitation is for fred@example.org./,
      {},
      PATIENCE,
    );
    expect(screen.queryByRole('button', { name: 'Accept the invitation' })).toBeNull();
    fireEvent.click(screen.getByRole('button', { name: 'Sign out and use fred@example.org' }));
    await screen.findByRole('link', { name: 'Create an account' });
    expect(session()).toBeNull();
    expect(at()).toBe('/invite');
  });
  it('is an invitation that is over: it says what to do, and is forgotten', async () => {
    panelWith({ 'POST invites/i1/preview': ended });
    showPage(LINK);
    await screen.findByRole('heading', { name: 'This invitation is over' }, PATIENCE);
    expect(screen.getByText(/Ask whoever invited you for a new one/)).toBeTruthy();
    expect(keptInvitation()).toBeNull();
  });
  it('is another invitation, followed in the same tab: the newer one counts', async () => {
    const panel = panelWith({ 'POST invites/i2/preview': { ...offer, tenant_name: 'Early Birds' } });
    const { router, at } = showPage(LINK);
    await screen.findByRole('heading', { name: 'Join Night Owls' }, PATIENCE);
    await waitFor(() => expect(at()).toBe('/invite'));
    router.history.push('/invite#id=i2&token=other');
    await screen.findByRole('heading', { name: 'Join Early Birds' }, PATIENCE);
    await waitFor(() => expect(at()).toBe('/invite'));
    expect(keptInvitation()).toMatchObject({ id: 'i2', token: 'other' });
    expect(panel.asked.at(-1)?.body).toEqual({ token: 'other' });
  });
  it('is an address without what came with the mail', async () => {
    panelWith();
    showPage('/invite');
    await screen.findByText(/This address lacks the part that came with the mail/, {}, PATIENCE);
  });
  it('is a panel that does not answer: it can be tried again', async () => {
    const panel = panelWith({ 'POST invites/i1/preview': new Answer(500, {}) });
    showPage(LINK);
    fireEvent.click(await screen.findByRole('button', { name: 'Try again' }, PATIENCE));
    panel.routes['POST invites/i1/preview'] = offer;
    await waitFor(() => {
      const again = screen.queryByRole('button', { name: 'Try again' });
      if (again) fireEvent.click(again);
      expect(screen.getByRole('heading', { name: 'Join Night Owls' })).toBeTruthy();
    }, PATIENCE);
  });
});
