import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor } from '@testing-library/react';
import { afterEach, describe, expect, it } from 'vitest';
import { Answer, anOrganisation, aPanel, showPage } from '@/page.testing';
import { session } from '@/stores/session';
import { aToken, aUser } from '@/testing';

afterEach(() => {
  cleanup();
  notifications.clean();
});

const PATIENCE = { timeout: 10_000 };
const button = (name: string | RegExp) => screen.getByRole('button', { name });
const type = (label: string, value: string) => fireEvent.change(screen.getByLabelText(label), { target: { value } });
const signedIn = { token: aToken(), record: aUser };
const heldUp = (ways: string[]) =>
  new Answer(401, {
    status: 401,
    code: 'second_factor_needed',
    message: 'Please show your second factor to go on.',
    data: {},
    checkpoint: { token: 'mc1.T', expires_at: '2026-11-27 10:00:00.000Z', ways },
  });
const methods = (differs: object = {}) => ({
  password: { enabled: true, identityFields: ['email'] },
  oauth2: { enabled: false, providers: [] },
  otp: { enabled: true, duration: 600 },
  mfa: { enabled: false, duration: 0 },
  ...differs,
});
const ways = 'GET collections/users/auth-methods';
const byPassword = 'POST collections/users/auth-with-password';

async function enter() {
  await screen.findByLabelText('Password', {}, PATIENCE);
  type('E-mail address', 'ana@example.org');
  type('Password', 'a-long-password');
  fireEvent.click(button('Sign in'));
}

describe('signing in with a second factor', () => {
  it('asks for the code, says what is wrong with one, and goes on with the right one', async () => {
    const panel = aPanel({ ...anOrganisation(), [ways]: methods(), [byPassword]: heldUp(['code', 'backup_code']) });
    const { at } = showPage('/sign-in?next=%2Fo%2Fowls%2Fservers');
    await enter();
    await screen.findByLabelText('Code of your authenticator');
    expect(session()).toBeNull();
    panel.routes['POST account/checkpoint'] = new Answer(400, {
      code: 'invalid_input',
      message: 'Some of what you entered cannot be used.',
      data: { code: { code: 'wrong', message: 'This code is not right.' } },
    });
    type('Code of your authenticator', '111111');
    fireEvent.click(button('Go on'));
    await screen.findByText('This code is not right.');
    panel.routes['POST account/checkpoint'] = signedIn;
    type('Code of your authenticator', '222222');
    fireEvent.click(button('Go on'));
    await waitFor(() => expect(at()).toBe('/o/owls/servers'));
    expect(panel.asked.filter((a) => a.url === 'account/checkpoint').map((a) => a.body)).toEqual([
      { checkpoint: 'mc1.T', code: '111111' },
      { checkpoint: 'mc1.T', code: '222222' },
    ]);
    expect(session()?.id).toBe(aUser.id);
  });
  it('takes a backup code', async () => {
    const panel = aPanel({ ...anOrganisation(), [ways]: methods(), [byPassword]: heldUp(['code', 'backup_code']) });
    panel.routes['POST account/checkpoint'] = signedIn;
    const { at } = showPage('/sign-in?next=%2Fo%2Fowls%2Fservers');
    await enter();
    fireEvent.click(await screen.findByRole('button', { name: 'Use a backup code' }));
    type('Backup code', ' abcde-fghij ');
    fireEvent.click(button('Go on'));
    await waitFor(() => expect(at()).toBe('/o/owls/servers'));
    expect(panel.asked.find((a) => a.url === 'account/checkpoint')?.body).toEqual({
      checkpoint: 'mc1.T',
      backup_code: 'abcde-fghij',
    });
  });
  it('begins again when it took too long', async () => {
    aPanel({
      [ways]: methods(),
      [byPassword]: heldUp(['code']),
      'POST account/checkpoint': new Answer(401, { code: 'checkpoint_ended', message: 'This sign-in took too long.' }),
    });
    showPage('/sign-in');
    await enter();
    await screen.findByLabelText('Code of your authenticator');
    type('Code of your authenticator', '111111');
    fireEvent.click(button('Go on'));
    await screen.findByText('This sign-in took too long.');
    expect(screen.queryByLabelText('Code of your authenticator')).toBeNull();
    fireEvent.click(button('Begin again'));
    await screen.findByLabelText('Password');
  });
});

describe('other ways to sign in', () => {
  it('are those that the operator has set', async () => {
    aPanel({
      [ways]: methods({
        otp: { enabled: false, duration: 0 },
        oauth2: { enabled: true, providers: [{ name: 'github', displayName: 'GitHub' }] },
      }),
    });
    showPage('/sign-in');
    await screen.findByRole('button', { name: 'Continue with GitHub' }, PATIENCE);
    expect(screen.queryByRole('button', { name: 'Have a code sent by mail' })).toBeNull();
    expect(screen.queryByRole('button', { name: 'Use a passkey' })).toBeNull(); // this browser has none
  });
  it('sends a code by mail and signs in with it, to the second factor of who has one', async () => {
    const panel = aPanel({
      ...anOrganisation(),
      [ways]: methods(),
      'POST collections/users/request-otp': { otpId: 'otp000000000001' },
      'POST collections/users/auth-with-otp': new Answer(400, { message: 'Invalid or expired OTP' }),
    });
    showPage('/sign-in');
    fireEvent.click(await screen.findByRole('button', { name: 'Have a code sent by mail' }, PATIENCE));
    type('E-mail address', 'ana@example.org');
    fireEvent.click(button('Send the code'));
    await screen.findByLabelText('Code from the mail');
    fireEvent.click(button('Go on'));
    await screen.findByText('Enter the code.');
    expect(panel.wrote().filter((one) => one.includes('auth-with-otp'))).toEqual([]); // it would count as a try
    type('Code from the mail', '12345678');
    fireEvent.click(button('Go on'));
    await screen.findByText(/not right, or it is too old/);
    panel.routes['POST collections/users/auth-with-otp'] = heldUp(['backup_code']);
    fireEvent.click(button('Go on'));
    await screen.findByLabelText('Backup code');
  });
});

it('asks for the password that is missing instead of spending a try', async () => {
  const panel = aPanel({ [ways]: methods() });
  showPage('/sign-in');
  await screen.findByLabelText('Password', {}, PATIENCE);
  type('E-mail address', 'ana@example.org');
  fireEvent.click(button('Sign in'));
  await screen.findByText('Enter your password.');
  expect(panel.wrote()).toEqual([]);
});

describe('signing up', () => {
  it('says that the panel cannot be reached, and keeps what was typed', async () => {
    const panel = aPanel({ 'POST collections/users/records': new Answer(500) });
    showPage('/sign-up');
    await screen.findByLabelText('Your name', {}, PATIENCE);
    type('Your name', 'Ana');
    type('E-mail address', 'ana@example.org');
    type('Password', 'a-long-password');
    fireEvent.click(button('Create account'));
    await screen.findByText(/The panel could not do this/); // nobody is signed in here
    expect(screen.getByLabelText('E-mail address')).toHaveProperty('value', 'ana@example.org');
    expect(panel.wrote()).toEqual(['POST collections/users/records']);
  });
});
