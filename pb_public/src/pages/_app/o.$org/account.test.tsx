import { notifications } from '@mantine/notifications';
import { cleanup, fireEvent, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Factors } from '@/api/views';
import { Answer, anOrganisation, aPanel, showPage, signedIn } from '@/page.testing';
import { aUser } from '@/testing';

beforeEach(signedIn);
afterEach(() => {
  cleanup();
  notifications.clean();
});

const PATIENCE = { timeout: 10_000 };
const button = (name: string | RegExp) => screen.getByRole('button', { name });
const dialog = async (name: string) => within(await screen.findByRole('dialog', { name }));
const none: Factors = { totp: false, backup_codes: 0, passkeys: [], passkeys_at: null, proven_until: null };
const on: Factors = { ...none, totp: true, backup_codes: 10 };
const codes = Array.from({ length: 10 }, (_, i) => `aaaa${'abcdefghij'[i]}-bbbbb`);
const security = (factors: Factors) => ({
  ...anOrganisation(),
  'GET account/factors': factors,
  'GET account/sessions': { items: [] },
});

describe('two-factor sign-in', () => {
  it('is set up after a proof, by the first code, and shows the backup codes once', async () => {
    const panel = aPanel({
      ...security(none),
      'POST account/totp': new Answer(403, {
        code: 'proof_required',
        message: 'Please show once more that it is you.',
      }),
      'POST account/proof': { proven_until: '2026-11-27T10:00:00Z' },
      'POST account/totp/confirm': { backup_codes: codes },
    });
    showPage('/o/owls/account/security');
    await screen.findByText(/has no second factor/, {}, PATIENCE);
    fireEvent.click(button('Set up'));
    const proof = await dialog('Show that it is you');
    fireEvent.change(proof.getByLabelText('Password'), { target: { value: 'a-long-password' } });
    panel.routes['POST account/totp'] = {
      secret: 'ABCDEFGH',
      uri: 'otpauth://totp/x',
      qr: 'data:image/png;base64,AA==',
    };
    fireEvent.click(proof.getByRole('button', { name: 'Go on' }));
    const setUp = await dialog('Authenticator app');
    expect(setUp.getByText('ABCDEFGH')).toBeTruthy();
    expect(setUp.getByAltText(/Picture to scan/).getAttribute('src')).toContain('data:image/png');
    fireEvent.change(setUp.getByLabelText('Code that the app shows'), { target: { value: '123 456' } });
    panel.routes['GET account/factors'] = on;
    fireEvent.click(setUp.getByRole('button', { name: 'Switch on' }));
    const kept = await dialog('Keep these codes');
    expect(kept.getAllByRole('listitem')).toHaveLength(10);
    expect(kept.getByRole('link', { name: 'Download' }).getAttribute('href')).toContain(codes[0]);
    fireEvent.click(kept.getByRole('button', { name: 'I have kept them' }));
    await screen.findByText('10 codes are left.');
    expect(panel.asked.find((a) => a.url === 'account/proof')?.body).toEqual({ password: 'a-long-password' });
    expect(panel.asked.find((a) => a.url === 'account/totp/confirm')?.body).toEqual({ code: '123456' });
  });
  it('is switched off by a code or a backup code, and says when that is wrong', async () => {
    const panel = aPanel({
      ...security(on),
      'DELETE account/totp': new Answer(400, {
        code: 'invalid_input',
        message: 'x',
        data: { backup_code: { code: 'wrong', message: 'None of your backup codes.' } },
      }),
    });
    showPage('/o/owls/account/security');
    fireEvent.click(await screen.findByRole('button', { name: 'Switch off' }, PATIENCE));
    const ask = await dialog('Switch off');
    fireEvent.change(ask.getByLabelText('Code or backup code'), { target: { value: 'abcde-fghij' } });
    fireEvent.click(ask.getByRole('button', { name: 'Switch off' }));
    await ask.findByText('None of your backup codes.');
    panel.routes['DELETE account/totp'] = new Answer(204);
    panel.routes['GET account/factors'] = none;
    fireEvent.click(ask.getByRole('button', { name: 'Switch off' }));
    await screen.findByText(/has no second factor/);
    expect(panel.asked.find((a) => a.method === 'DELETE')?.body).toEqual({ backup_code: 'abcde-fghij' });
  });
});

describe('passkeys', () => {
  it('are renamed and removed, and the last one says what goes with it', async () => {
    const key = { id: 'key000000000001', name: 'My phone', created: '2026-11-27 10:00:00.000Z', last_used: '' };
    const panel = aPanel({ ...security({ ...none, backup_codes: 10, passkeys: [key] }) });
    showPage('/o/owls/account/security');
    await screen.findByText('My phone', {}, PATIENCE);
    panel.routes['PATCH account/passkeys/key000000000001'] = { ...key, name: 'Old phone' };
    fireEvent.click(button('Rename My phone'));
    const rename = await dialog('Rename My phone');
    fireEvent.change(rename.getByLabelText('Name'), { target: { value: 'Old phone' } });
    fireEvent.click(rename.getByRole('button', { name: 'Save changes' }));
    await waitFor(() => expect(panel.wrote()).toContain('PATCH account/passkeys/key000000000001'));
    await waitFor(() => expect(screen.queryByRole('dialog')).toBeNull());
    panel.routes['DELETE account/passkeys/key000000000001'] = new Answer(204);
    fireEvent.click(button('Remove My phone'));
    const remove = await dialog('Remove My phone?');
    expect(remove.getByText(/your only second factor/)).toBeTruthy();
    panel.routes['GET account/factors'] = none;
    fireEvent.click(remove.getByRole('button', { name: 'Remove' }));
    await screen.findByText('You have none yet.');
  });
});

describe('an organisation that requires a second factor', () => {
  const tenant = {
    id: 't1',
    name: 'Night Owls',
    slug: 'owls',
    status: 'ACTIVE',
    rev: 1,
    require_2fa: true,
    role: 'MEMBER',
  };
  const held = new Answer(403, { code: 'second_factor_required', message: 'This organisation lets in only those.' });
  it('says why nobody gets in without one, leads to setting it up, and back', async () => {
    const panel = aPanel(security(none));
    const { at, client } = showPage('/o/owls/servers');
    await screen.findByText('Friday night', {}, PATIENCE);
    panel.routes['GET tenants'] = { items: [tenant] }; // from now on
    panel.routes['GET tenants/current'] = held;
    void client.invalidateQueries({ queryKey: ['org', 'owls', 'current'] });
    fireEvent.click(await screen.findByRole('link', { name: 'Set up a second factor' }, PATIENCE));
    await waitFor(() => expect(at()).toBe('/o/owls/account/security'));
    await screen.findByText('Night Owls requires a second factor');
    panel.routes['GET account/factors'] = on;
    panel.routes['POST account/totp'] = { secret: 'A', uri: 'otpauth://totp/x', qr: 'data:image/png;base64,AA==' };
    panel.routes['POST account/totp/confirm'] = { backup_codes: codes };
    fireEvent.click(button('Set up'));
    const setUp = await dialog('Authenticator app');
    fireEvent.change(setUp.getByLabelText('Code that the app shows'), { target: { value: '123456' } });
    panel.routes['GET tenants/current'] = anOrganisation()['GET tenants/current'];
    fireEvent.click(setUp.getByRole('button', { name: 'Switch on' }));
    fireEvent.click((await dialog('Keep these codes')).getByRole('button', { name: 'I have kept them' }));
    fireEvent.click(await screen.findByRole('link', { name: 'Go to Night Owls' }));
    await waitFor(() => expect(at()).toBe('/o/owls/servers'));
    await screen.findByText('Friday night', {}, PATIENCE);
  });
  it('is switched on in its settings, by who has one himself', async () => {
    const panel = aPanel({
      ...anOrganisation(),
      'PATCH tenants/owls': new Answer(403, { code: 'second_factor_required', message: 'You have none yourself.' }),
    });
    showPage('/o/owls/settings');
    const control = await screen.findByLabelText('Require a second factor of all members', {}, PATIENCE);
    fireEvent.click(control);
    await screen.findByText('You have none yourself.');
    panel.routes['PATCH tenants/owls'] = { ...tenant, role: 'OWNER' };
    fireEvent.click(control);
    await screen.findByText('From now on every member needs a second factor.');
    expect(panel.asked.find((a) => a.method === 'PATCH')?.body).toEqual({ require_2fa: true });
  });
});

describe('password and address', () => {
  it('says that the present password is wrong', async () => {
    aPanel({
      ...security(none),
      'PATCH collections/users/records/user00000000001': new Answer(400, {
        data: { oldPassword: { code: 'validation_invalid_old_password', message: 'Missing or invalid.' } },
      }),
    });
    showPage('/o/owls/account/security');
    fireEvent.change(await screen.findByLabelText('Present password', {}, PATIENCE), { target: { value: 'x' } });
    fireEvent.change(screen.getByLabelText('New password'), { target: { value: 'another-long-one' } });
    fireEvent.click(button('Save the password'));
    await screen.findByText('This is not your present password.');
  });
  it('says in words of its own that a new address cannot be used', async () => {
    aPanel({
      ...anOrganisation(),
      'POST collections/users/request-email-change': new Answer(400, {
        message: 'An error occurred while validating the submitted data.',
        data: { newEmail: { code: 'validation_not_in_invalid', message: 'Must not be in list.' } },
      }),
    });
    showPage('/o/owls/account');
    fireEvent.change(await screen.findByLabelText('New address', {}, PATIENCE), { target: { value: aUser.email } });
    fireEvent.click(button('Change the address'));
    await screen.findByText(/This address cannot be used. Perhaps it is yours already/);
  });
  it('sends a link to a new address', async () => {
    const panel = aPanel({ ...anOrganisation(), 'POST collections/users/request-email-change': new Answer(204) });
    showPage('/o/owls/account');
    fireEvent.change(await screen.findByLabelText('New address', {}, PATIENCE), {
      target: { value: 'new@example.org' },
    });
    fireEvent.click(button('Change the address'));
    await screen.findByText('A link is on its way to new@example.org.');
    expect(panel.asked.find((a) => a.url.endsWith('request-email-change'))?.body).toEqual({
      newEmail: 'new@example.org',
    });
  });
});

describe('deleting the account', () => {
  it('is done with the address typed and who one is shown, and ends at the door', async () => {
    const panel = aPanel({
      ...security(none),
      'DELETE account': new Answer(403, { code: 'proof_required', message: 'Please show once more that it is you.' }),
      'POST account/proof': { proven_until: '2026-11-27T10:00:00Z' },
    });
    const { at } = showPage('/o/owls/account');
    fireEvent.click(await screen.findByRole('button', { name: 'Delete…' }, PATIENCE));
    const asking = await dialog('Delete your account?');
    expect(asking.getByText(/your sign-in, your memberships/)).toBeTruthy();
    const confirm = asking.getByRole('button', { name: 'Delete your account' }) as HTMLButtonElement;
    expect(confirm.disabled).toBe(true);
    fireEvent.change(asking.getByRole('textbox'), { target: { value: aUser.email } });
    fireEvent.click(confirm);
    const proof = await dialog('Show that it is you');
    fireEvent.change(proof.getByLabelText('Password'), { target: { value: 'a-long-password' } });
    panel.routes['DELETE account'] = new Answer(204);
    fireEvent.click(proof.getByRole('button', { name: 'Go on' }));
    await waitFor(() => expect(at()).toContain('/sign-in'), PATIENCE);
    expect(panel.wrote()).toEqual(['DELETE account', 'POST account/proof', 'DELETE account']);
  });
  it('says why it cannot be done', async () => {
    aPanel({
      ...security(none),
      'DELETE account': new Answer(409, { code: 'owns_tenants', message: 'This account owns Night Owls.' }),
    });
    showPage('/o/owls/account');
    fireEvent.click(await screen.findByRole('button', { name: 'Delete…' }, PATIENCE));
    const asking = await dialog('Delete your account?');
    fireEvent.change(asking.getByRole('textbox'), { target: { value: aUser.email } });
    fireEvent.click(asking.getByRole('button', { name: 'Delete your account' }));
    await screen.findByText('This account owns Night Owls.');
  });
});

it('is whole for somebody who is in no organisation: mails about its safety lead there', async () => {
  const session = { id: 's1', method: 'password', address: '203.0.113.7', user_agent: '', created: '', expires_at: '' };
  aPanel({
    ...security(none),
    'GET tenants': { items: [] },
    'GET account/sessions': { items: [{ ...session, last_used: '2026-11-27T10:00:00Z', current: false }] },
  });
  showPage('/account');
  await screen.findByText(/has no second factor/, {}, PATIENCE);
  await screen.findByRole('heading', { name: 'Where you are signed in' });
  await screen.findByRole('button', { name: /^End the session on/ });
  for (const name of ['E-mail address', 'Passkeys', 'Password', 'Delete your account'])
    expect(screen.getByRole('heading', { name })).toBeTruthy();
});

describe('your name', () => {
  it('says at the field why the panel does not take it', async () => {
    aPanel({
      ...anOrganisation(),
      [`PATCH collections/users/records/${aUser.id}`]: new Answer(400, {
        message: 'Some of what you entered cannot be used.',
        data: { name: { code: 'name_invalid', message: 'Please use at most 80 ordinary characters.' } },
      }),
    });
    showPage('/o/owls/account');
    const name = (await screen.findByLabelText('Name', {}, PATIENCE)) as HTMLInputElement;
    fireEvent.change(name, { target: { value: 'Ana \u202e' } });
    fireEvent.click(button('Save changes'));
    await screen.findByText('Please use at most 80 ordinary characters.');
    expect(screen.queryByText(/Some of what you entered/)).toBeNull();
    expect(name.getAttribute('aria-invalid')).toBe('true');
  });
});
