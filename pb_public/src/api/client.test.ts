import { ClientResponseError } from 'pocketbase';
import { describe, expect, it } from 'vitest';
import { answering, aToken, aUser } from '@/testing';
import { newKey, pb, request } from './client';
import { ApiError, asApiError, fromBody } from './error';

const failed = (work: Promise<unknown>) =>
  work.then(
    () => Promise.reject(new Error('it succeeded')),
    (e: ApiError) => e,
  );

describe('request', () => {
  it('sends who asks, for which organisation, and what is looked for', async () => {
    pb.authStore.save(aToken(), aUser as never);
    const asked = answering({ status: 200, body: { ok: 1 } });
    expect(
      await request('servers', { org: 'owls', query: { search: 'a b', page: 2, status: undefined, game: '' } }),
    ).toEqual({ ok: 1 });
    expect(asked[0]?.url).toBe('/api/v1/servers?search=a+b&page=2');
    expect(asked[0]?.headers.get('Authorization')).toBe(pb.authStore.token);
    expect(asked[0]?.headers.get('X-Tenant')).toBe('owls');
    expect(asked[0]?.headers.get('Content-Type')).toBeNull();
  });
  it('asks for the ways to sign in as nobody, also while a session ends', async () => {
    pb.authStore.save(aToken(), aUser as never);
    const asked = answering({ status: 200, body: {} });
    await pb.collection('users').listAuthMethods();
    expect(asked).toHaveLength(1);
    expect(asked[0]?.headers.get('Authorization')).toBeNull();
  });
  it('hands on the panel’s code, sentence, fields and request id', async () => {
    answering({
      status: 400,
      body: {
        status: 400,
        code: 'invalid_input',
        message: 'Look again.',
        data: { name: { code: 'required', message: 'Give it a name.' } },
        request_id: 'r7',
      },
    });
    const e = await failed(request('servers'));
    expect(e).toMatchObject({
      status: 400,
      code: 'invalid_input',
      message: 'Look again.',
      requestId: 'r7',
      fields: { name: { code: 'required' } },
    });
    expect(e.retryable).toBe(false);
  });
  it('ends the session at a 401', async () => {
    pb.authStore.save(aToken(), aUser as never);
    answering({ status: 401, body: {} });
    expect((await failed(request('account'))).code).toBe('unauthenticated');
    expect(pb.authStore.token).toBe('');
  });
  it('renews a token that is about to end, once for all who ask, and goes on', async () => {
    pb.authStore.save(aToken(30), aUser as never);
    const next = aToken(900);
    const asked = answering(
      { status: 200, body: { token: next, record: aUser } },
      { status: 200, body: { n: 1 } },
      { status: 200, body: { n: 1 } },
    );
    await Promise.all([request('a'), request('b')]);
    expect(asked.map((a) => a.url).sort()).toEqual(['/api/v1/a', '/api/v1/account/sessions/refresh', '/api/v1/b']);
    expect(asked[0]?.headers.get('Authorization')).toBeNull();
    expect(asked[2]?.headers.get('Authorization')).toBe(next);
    expect(pb.authStore.token).toBe(next);
  });
  it('renews a token that the panel does not take any more, and asks again once', async () => {
    pb.authStore.save(aToken(), aUser as never);
    const asked = answering(
      { status: 401, body: { code: 'session_expired' } },
      { status: 200, body: { token: aToken(901), record: aUser } },
      { status: 200, body: { n: 1 } },
    );
    expect(await request('a')).toEqual({ n: 1 });
    expect(asked).toHaveLength(3);
    answering({ status: 401, body: { code: 'session_expired' } }, { status: 401, body: { code: 'session_expired' } });
    expect((await failed(request('a'))).code).toBe('session_expired');
    expect(pb.authStore.record).toBeNull();
  });
  it('keeps the session when the panel cannot be reached to renew it', async () => {
    pb.authStore.save(aToken(-5), aUser as never);
    answering();
    expect((await failed(request('a'))).code).toBe('network');
    expect(pb.authStore.record).not.toBeNull();
  });
  it('keeps the session at a 403 and when there is no connection', async () => {
    pb.authStore.save(aToken(), aUser as never);
    answering({ status: 403, body: { message: 'Only owners.' } });
    expect((await failed(request('x'))).message).toBe('Only owners.');
    const e = await failed(request('x'));
    expect(e).toMatchObject({ status: 0, code: 'network', retryable: true });
    expect(pb.authStore.token).not.toBe('');
  });
  it('puts a sentence of its own in place of a refusal that names no field and has no code', () => {
    expect(fromBody(400, { status: 400, message: 'Failed to create record.', data: {} }).message).toBe(
      'The panel could not take this. Look at what you entered, then try again.',
    );
    const named = { message: 'Look again.', data: { name: { code: 'x', message: 'Too long.' } } };
    expect(fromBody(400, named).message).toBe('Look again.');
  });
  it('says that the panel is away when only what stands before it answers', () => {
    expect(fromBody(502, undefined)).toMatchObject({ code: 'away', retryable: true });
    expect(fromBody(502, undefined).message).toBe('The panel does not answer right now. Try again in a moment.');
    expect(fromBody(503, { code: 'node_offline', message: 'x' }).code).toBe('node_offline');
  });
  it('shows nothing of the inside of a 500, but its request id', async () => {
    answering({ status: 500, body: { message: 'panic: nil map in hooks/servers' } });
    const e = await failed(request('x'));
    expect(e.message).not.toContain('panic');
    expect(e.requestId).toBe('req1');
  });
  it('does not take an HTML page of a proxy for an answer', async () => {
    const asked = answering();
    expect(asked).toEqual([]);
    globalThis.fetch = async () => new Response('<html>', { status: 200 });
    expect((await failed(request('x'))).code).toBe('unexpected');
  });
  it('takes an empty answer', async () => {
    answering({ status: 204 });
    expect(await request('x', { method: 'DELETE' })).toBeUndefined();
  });
});

describe('errors', () => {
  it('reads nested fields', () => {
    const e = fromBody(400, { data: { limits: { memory_mib: { code: 'max', message: 'Too much.' } }, odd: 7 } });
    expect(e.fields).toEqual({ 'limits.memory_mib': { code: 'max', message: 'Too much.' } });
  });
  it('reads PocketBase’s own', () => {
    const e = asApiError(new ClientResponseError({ status: 429, response: {} }));
    expect(e).toMatchObject({ status: 429, code: 'too_many', retryable: true });
    expect(asApiError(new ClientResponseError({ status: 0, isAbort: true })).code).toBe('timeout');
  });
  it('has a sentence for what nobody thought of', () => {
    for (const odd of [null, undefined, 'text', {}, new Error('x')]) expect(asApiError(odd).message).toMatch(/\.$/);
    expect(fromBody(418, null)).toMatchObject({ code: 'invalid_input', fields: {} });
    const own = new ApiError(1, 'x', 'y');
    expect(asApiError(own)).toBe(own);
  });
});

it('keys are 128 random bits', () => {
  const keys = new Set(Array.from({ length: 100 }, newKey));
  expect(keys.size).toBe(100);
  for (const k of keys) expect(k).toMatch(/^[0-9a-f]{32}$/);
});
