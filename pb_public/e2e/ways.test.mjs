// The other ways in and back: a provider, a code by mail, a forgotten password, a new address. An operator allows the first two.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import {
  axe,
  base,
  launch,
  mailLink,
  mails,
  makeOrganisation,
  newAddress,
  newPage,
  PASSWORD,
  signUp,
} from './browser.mjs';

const SECRET = 'a-client-secret-of-the-provider';
const run = promisify(execFile);
const program = fileURLToPath(new URL('../../bin/mambahost', import.meta.url));
const heading = (page, name, level = 1) => page.getByRole('heading', { name, level });

/** An OpenID provider. The browser sees its page under a name that only this test knows; the panel asks it itself. */
const PAGE = 'http://provider.test/authorize';
const olga = newAddress('olga');
const shown = [];
const provider = createServer((request, response) => {
  let body = '';
  request.on('data', (chunk) => {
    body += chunk;
  });
  request.on('end', () => {
    response.setHeader('Content-Type', 'application/json');
    if (request.url === '/userinfo') {
      response.end(JSON.stringify({ sub: 'olga-1', email: olga, email_verified: true, name: 'Olga Provided' }));
      return;
    }
    const given = request.headers.authorization
      ? Buffer.from(request.headers.authorization.split(' ')[1], 'base64').toString().split(':')[1]
      : new URLSearchParams(body).get('client_secret');
    shown.push(decodeURIComponent(given ?? ''));
    response.end(JSON.stringify({ access_token: 'x', token_type: 'Bearer', expires_in: 3600 }));
  });
});

let browser;
before(async () => {
  browser = await launch();
  await new Promise((ready) => provider.listen(0, '127.0.0.1', ready));
});
after(async () => {
  provider.close();
  await browser?.close();
});

const ask = async (method, path, body, token = '') => {
  const answer = await fetch(base + path, {
    method,
    headers: { 'Content-Type': 'application/json', ...(token && { Authorization: token }) },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200, `${method} ${path}: ${answer.status}`);
  return answer.json();
};

test('T30 other ways to sign in, and back to a forgotten account', { timeout: 240_000 }, async (t) => {
  const phone = { viewport: { width: 390, height: 844 } };
  const guest = await newPage(browser, phone);
  const ana = { ...(await newPage(browser, { ...phone, colorScheme: 'dark' })), email: newAddress('ana') };
  const looked = [];
  const look = async (page, where) => {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${where} is ${over} px too wide`);
    looked.push(await axe(page, where));
  };
  const signIn = async (page, email, password) => {
    await page.getByLabel('E-mail address').fill(email);
    await page.getByLabel('Password', { exact: true }).fill(password);
    await page.getByRole('button', { name: 'Sign in' }).click();
  };
  const signOut = async (page) => {
    await page.goto(`/o/${org}/account`);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await heading(page, 'Sign in').waitFor();
  };
  const isIn = (page) => heading(page, 'No servers yet', 2).waitFor();
  let org;

  await t.test('an operator allows codes by mail and a provider', async () => {
    await run(program, ['superuser', 'upsert', 'root@example.org', PASSWORD, '--dir', process.env.E2E_DATA]);
    const { token } = await ask('POST', '/api/collections/_superusers/auth-with-password', {
      identity: 'root@example.org',
      password: PASSWORD,
    });
    const local = `http://127.0.0.1:${provider.address().port}`;
    const one = {
      name: 'oidc',
      displayName: 'Example',
      clientId: 'mamba',
      clientSecret: SECRET,
      authURL: PAGE,
      tokenURL: `${local}/token`,
      userInfoURL: `${local}/userinfo`,
    };
    const saved = await ask(
      'PATCH',
      '/api/collections/users',
      { otp: { enabled: true }, oauth2: { enabled: true, providers: [one] } },
      token,
    );
    assert.ok(!JSON.stringify(saved).includes(SECRET), 'the answer shows the client secret');
  });

  await t.test('somebody signs up with the provider', async () => {
    const { page } = guest;
    await page.context().route(`${PAGE}**`, (route) => {
      const asked = new URL(route.request().url());
      const back = new URL(asked.searchParams.get('redirect_uri'));
      back.searchParams.set('code', 'a-code');
      back.searchParams.set('state', asked.searchParams.get('state'));
      return route.fulfill({ status: 302, headers: { Location: back.href } });
    });
    await page.goto('/sign-in');
    await page.getByRole('button', { name: 'Continue with Example' }).waitFor();
    await look(page, 'all ways to sign in');
    await page.getByRole('button', { name: 'Continue with Example' }).click();
    await page.getByRole('button', { name: 'Create organisation' }).waitFor();
    assert.deepEqual([...new Set(shown)], [SECRET]);
  });

  await t.test('somebody else has an organisation', async () => {
    const { page, email } = ana;
    await signUp(page, 'Ana Keller', email);
    org = await makeOrganisation(page, 'Many Ways', 'ways');
  });

  await t.test('signs in with a code by mail', async () => {
    const { page, email } = ana;
    await signOut(page);
    await page.getByRole('button', { name: 'Have a code sent by mail' }).click();
    await page.getByLabel('E-mail address').fill(email);
    await look(page, 'a code is asked for');
    await page.getByRole('button', { name: 'Send the code' }).click();
    const [, code] = await mails(email, /\b(\d{8})\b/);
    await page.getByLabel('Code from the mail').fill(code);
    await look(page, 'a code is entered');
    await page.getByRole('button', { name: 'Go on' }).click();
    await isIn(page);
  });

  await t.test('forgets the password and sets a new one', async () => {
    const { page, email } = ana;
    await signOut(page);
    await page.getByRole('link', { name: 'Forgot your password?' }).click();
    await page.getByLabel('E-mail address').fill(email);
    await look(page, 'a forgotten password');
    await page.getByRole('button', { name: 'Send the link' }).click();
    await heading(page, 'Check your mail').waitFor();
    await page.goto(await mailLink(email, 'reset-password'));
    await page.getByLabel('New password').fill(`${PASSWORD}-2`);
    await look(page, 'a new password');
    await page.getByRole('button', { name: 'Save the password' }).click();
    await page.getByText('Your new password is set. Sign in with it.').waitFor();
    await signIn(page, email, `${PASSWORD}-2`);
    await isIn(page);
  });

  await t.test('moves to another address', async () => {
    const { page } = ana;
    const next = newAddress('anna');
    await page.goto(`/o/${org}/account`);
    await page.getByLabel('New address').fill(next);
    await look(page, 'a new address');
    await page.getByRole('button', { name: 'Change the address' }).click();
    await page.getByText(`A link is on its way to ${next}.`).waitFor();
    await page.goto(await mailLink(next, 'confirm-email'));
    await page.getByLabel('Password').first().fill(`${PASSWORD}-2`);
    await look(page, 'the link to a new address');
    await page.getByRole('button', { name: 'Use this address' }).click();
    await page.getByText('Your new address is in use. Sign in with it.').waitFor();
    await signIn(page, next, `${PASSWORD}-2`);
    await isIn(page);
  });

  assert.deepEqual([...guest.errors, ...ana.errors], []);
  console.log(`# T30: other ways in, ${looked.length} pages at 390 px, axe 0 serious, 0 console errors`);
});
