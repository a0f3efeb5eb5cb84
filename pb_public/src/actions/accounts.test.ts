import { QueryClient, QueryObserver } from '@tanstack/react-query';
import { describe, expect, it, vi } from 'vitest';
import { pb } from '@/api/client';
import type { ApiError } from '@/api/error';
import { waysKey } from '@/stores/queries';
import { session } from '@/stores/session';
import { answering, aToken, aUser } from '@/testing';
import {
  confirmEmail,
  confirmReset,
  confirmVerification,
  requestReset,
  resendVerification,
  tokenOf,
} from './confirmMail';
import { copyText } from './copyText';
import { saveName } from './saveName';
import { signIn } from './signIn';
import { signOut } from './signOut';
import { signUp } from './signUp';

const failed = (work: Promise<unknown>) =>
  work.then(
    () => Promise.reject(new Error('it succeeded')),
    (error: ApiError) => error,
  );
const signedIn = { status: 200, body: { token: aToken(), record: aUser } };

describe('signUp', () => {
  const ana = { name: ' Ana ', email: ' ana@example.org ', password: 'a-long-password' };
  it('makes the account, signs in and asks for the mail', async () => {
    const asked = answering({ status: 200, body: aUser }, signedIn, { status: 204 });
    await signUp(ana);
    expect(asked.map((a) => a.url.split('/users/')[1])).toEqual([
      'records',
      'auth-with-password',
      'request-verification',
    ]);
    expect(asked[0]?.body).toEqual({
      name: 'Ana',
      email: 'ana@example.org',
      password: ana.password,
      passwordConfirm: ana.password,
    });
    expect(session()?.email).toBe('ana@example.org');
  });
  it('says that an address has an account already', async () => {
    answering({
      status: 400,
      body: { data: { email: { code: 'validation_not_unique', message: 'Value must be unique.' } } },
    });
    const error = await failed(signUp(ana));
    expect(error.code).toBe('taken');
    expect(error.fields.email?.message).toContain('account with this address');
  });
  it('keeps the session when only the mail could not be sent', async () => {
    answering({ status: 200, body: aUser }, signedIn, { status: 429, body: {} });
    expect((await failed(signUp(ana))).message).toContain('Too many tries');
    expect(session()).not.toBeNull();
  });
});

describe('signIn', () => {
  it('holds the session afterwards', async () => {
    answering(signedIn);
    await signIn('ana@example.org ', 'x');
    expect(session()?.id).toBe(aUser.id);
  });
  it('does not say whether the address or the password is wrong', async () => {
    answering({ status: 400, body: { message: 'Failed to authenticate.' } });
    const error = await failed(signIn('a@b.c', 'x'));
    expect(error.code).toBe('bad_credentials');
    expect(error.message).toContain('do not fit together');
  });
  it('tells a lost connection from a wrong password', async () => {
    answering();
    expect((await failed(signIn('a@b.c', 'x'))).code).toBe('network');
  });
});

describe('signOut', () => {
  it('forgets the session and everything cached', async () => {
    answering(signedIn);
    await signIn('ana@example.org', 'x');
    const client = new QueryClient();
    client.setQueryData(['account'], aUser);
    const left = vi.spyOn(pb.realtime, 'unsubscribe').mockRejectedValue(new Error('gone'));
    await signOut(client);
    expect(session()).toBeNull();
    expect(client.getQueryData(['account'])).toBeUndefined();
    expect(left).toHaveBeenCalled();
  });
  it('leaves what the sign-in page is asking for meanwhile', async () => {
    answering(signedIn);
    await signIn('ana@example.org', 'x');
    const client = new QueryClient();
    let answer = (_: string) => {};
    const page = new QueryObserver(client, {
      queryKey: waysKey,
      queryFn: () =>
        new Promise<string>((done) => {
          answer = done;
        }),
    });
    const shown: (string | undefined)[] = [];
    const leave = page.subscribe((r) => shown.push(r.data));
    await signOut(client);
    answer('ways');
    await vi.waitFor(() => expect(shown).toContain('ways'));
    leave();
  });
});

describe('confirmMail', () => {
  it('finds the token behind the hash and nowhere else', () => {
    expect(tokenOf('#token=abc.def')).toBe('abc.def');
    expect(tokenOf('token=abc')).toBe('abc');
    expect(tokenOf('#other=1')).toBe('');
    expect(tokenOf('')).toBe('');
  });
  it('sends each token to its own route', async () => {
    const asked = answering({ status: 204 }, { status: 204 }, { status: 204 }, { status: 204 }, { status: 204 });
    await confirmVerification('t1');
    await confirmReset('t2', 'new-password');
    await confirmEmail('t3', 'password');
    await requestReset(' ana@example.org ');
    await resendVerification('ana@example.org');
    expect(asked.map((a) => a.url.split('/users/')[1])).toEqual([
      'confirm-verification',
      'confirm-password-reset',
      'confirm-email-change',
      'request-password-reset',
      'request-verification',
    ]);
    expect(asked[1]?.body).toEqual({ token: 't2', password: 'new-password', passwordConfirm: 'new-password' });
    expect(asked[3]?.body).toEqual({ email: 'ana@example.org' });
  });
  it('says at which field a used token stands', async () => {
    answering({
      status: 400,
      body: { data: { token: { code: 'validation_invalid_token', message: 'Invalid or expired token.' } } },
    });
    expect((await failed(confirmVerification('t'))).fields.token?.code).toBe('validation_invalid_token');
  });
});

describe('saveName', () => {
  it('shows the new name at once and takes it back when refused', async () => {
    const client = new QueryClient();
    client.setQueryData(['account'], { ...aUser, verified: true });
    const name = () => client.getQueryData<{ name: string }>(['account'])?.name;
    answering({ status: 200, body: aUser });
    const saving = saveName(client, aUser.id, ' Ana Keller ');
    expect(name()).toBe('Ana Keller');
    await saving;
    answering({ status: 400, body: { message: 'No.' } });
    await failed(saveName(client, aUser.id, 'Other'));
    expect(name()).toBe('Ana Keller');
  });
});

describe('copyText', () => {
  it('uses the clipboard where there is one', async () => {
    const writeText = vi.fn().mockResolvedValue(undefined);
    vi.stubGlobal('navigator', { clipboard: { writeText } });
    expect(await copyText('1.2.3.4:5')).toBe(true);
    expect(writeText).toHaveBeenCalledWith('1.2.3.4:5');
  });
  it('selects a field on plain http, and gives the focus back', async () => {
    vi.stubGlobal('navigator', {});
    const button = document.createElement('button');
    document.body.append(button);
    button.focus();
    let selected = '';
    document.execCommand = () => {
      selected = (document.activeElement as HTMLTextAreaElement).value;
      return true;
    };
    expect(await copyText('address')).toBe(true);
    expect(selected).toBe('address');
    expect(document.activeElement).toBe(button);
    expect(document.querySelector('textarea')).toBeNull();
  });
  it('says so when neither works', async () => {
    vi.stubGlobal('navigator', { clipboard: { writeText: () => Promise.reject(new Error('refused')) } });
    document.execCommand = () => {
      throw new Error('no');
    };
    expect(await copyText('x')).toBe(false);
  });
});
