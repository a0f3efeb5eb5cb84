// Somebody switches a second factor on and is asked for it: authenticator, backup code and passkey, on a phone. Then
// an organisation requires one of a member who has none.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, test } from 'node:test';
import { axe, base, launch, mailLink, makeOrganisation, newAddress, newPage, PASSWORD, signUp } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

const WRONG = 'This code is not right. Please enter the one that your authenticator shows now.';
const heading = (page, name, level = 1) => page.getByRole('heading', { name, level });

/** An authenticator app: RFC 6238 with SHA-1, six digits and 30 s. */
class Authenticator {
  #key;
  #last = 0;

  constructor(secret) {
    const bits = [...secret].map((c) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0'));
    const bytes = bits.join('').match(/.{8}/g);
    this.#key = Buffer.from(bytes.map((b) => Number.parseInt(b, 2)));
  }

  /** A code that the panel takes and has not taken yet: it takes those of the windows beside the present one, too. */
  next() {
    const now = Math.floor(Date.now() / 30_000);
    this.#last = Math.max(this.#last + 1, now - 1);
    assert.ok(this.#last <= now + 1, 'more codes than windows that count');
    const counter = Buffer.alloc(8);
    counter.writeBigUInt64BE(BigInt(this.#last));
    const mac = createHmac('sha1', this.#key).update(counter).digest();
    return String((mac.readUInt32BE(mac[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0');
  }
}

test('T30 a second factor is switched on and asked for', { timeout: 240_000 }, async (t) => {
  // Passkeys are bound to a name, so these two go to localhost. The panel means it by its loopback address, too.
  const phone = { viewport: { width: 390, height: 844 }, baseURL: base.replace('127.0.0.1', 'localhost') };
  const ana = { ...(await newPage(browser, phone)), email: newAddress('ana') };
  const ben = { ...(await newPage(browser, { ...phone, colorScheme: 'dark' })), email: newAddress('ben') };
  const looked = [];
  const look = async (page, where) => {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${where} is ${over} px too wide`);
    looked.push(await axe(page, where));
  };
  const signOut = async (page) => {
    await page.goto(`/o/${org}/account`);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await heading(page, 'Sign in').waitFor();
  };
  const enterPassword = async ({ page, email }) => {
    await page.getByLabel('E-mail address').fill(email);
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await heading(page, 'One more step').waitFor();
  };
  const isIn = (page) => heading(page, 'No servers yet', 2).waitFor();
  /** Sets an authenticator up on the page of one's security; returns it with the backup codes. */
  const enrol = async (page) => {
    await page.getByText('Your account has no second factor.').waitFor();
    await look(page, 'security without a second factor');
    await page.getByRole('button', { name: 'Set up' }).click();
    await page.getByAltText('Picture to scan with an authenticator app').waitFor();
    const app = new Authenticator((await page.getByTestId('totp-secret').textContent()).trim());
    await look(page, 'an authenticator to scan');
    await page.getByLabel('Code that the app shows').fill(app.next());
    await page.getByRole('button', { name: 'Switch on' }).click();
    const codes = page.getByTestId('backup-codes').getByRole('listitem');
    await codes.first().waitFor();
    const texts = await codes.allInnerTexts();
    await look(page, 'backup codes');
    await page.getByRole('button', { name: 'I have kept them' }).click();
    await page.getByText('On. Signing in asks for its code.').waitFor();
    return { app, codes: texts };
  };
  let org;
  let app;
  let codes;

  await t.test('somebody has an organisation', async () => {
    const { page, email } = ana;
    await signUp(page, 'Ana Keller', email);
    org = await makeOrganisation(page, 'Two Locks', 'locks');
  });

  await t.test('finds his way by the palette', async () => {
    const { page } = ana;
    await page.keyboard.press('Control+k');
    const field = page.getByRole('combobox', { name: 'Search pages, servers and actions' });
    await field.waitFor();
    await look(page, 'the whole palette');
    await field.fill('audit');
    await page.getByRole('option', { name: /audit/i }).first().waitFor();
    await field.press('Enter');
    await page.waitForURL(/\/settings\/audit$/);
  });

  await t.test('switches an authenticator on and gets ten backup codes', async () => {
    const { page } = ana;
    await page.goto(`/o/${org}/account`);
    await page.getByRole('link', { name: 'Security', exact: true }).click();
    ({ app, codes } = await enrol(page));
    assert.equal(new Set(codes).size, 10);
    await page.getByText('10 codes are left.').waitFor();
    await look(page, 'security with an authenticator');
  });

  await t.test('signs in with the password and a code', async () => {
    const { page } = ana;
    await signOut(page);
    await enterPassword(ana);
    await look(page, 'one more step');
    const right = app.next();
    await page.getByLabel('Code of your authenticator').fill(right.replace(/^./, (d) => (Number(d) + 5) % 10));
    await page.getByRole('button', { name: 'Go on' }).click();
    await page.getByText(WRONG).waitFor();
    await look(page, 'one more step with a wrong code');
    await page.getByLabel('Code of your authenticator').fill(right);
    await page.getByRole('button', { name: 'Go on' }).click();
    await isIn(page);
    ana.errors.splice(0); // the browser's own lines about the 401 that asks and the 400 that refuses
  });

  await t.test('signs in with a backup code, once', async () => {
    const { page } = ana;
    const backup = async (code) => {
      await page.getByRole('button', { name: 'Use a backup code' }).click();
      await page.getByLabel('Backup code').fill(code);
      await page.getByRole('button', { name: 'Go on' }).click();
    };
    await signOut(page);
    await enterPassword(ana);
    await backup(codes[0]);
    await isIn(page);
    await signOut(page);
    await enterPassword(ana);
    await backup(codes[0]);
    await page.getByRole('main').getByText('This is none of your backup codes, or it was used before.').waitFor();
    await look(page, 'a backup code that is used up');
    await page.getByLabel('Backup code').fill(codes[1]);
    await page.getByRole('button', { name: 'Go on' }).click();
    await isIn(page);
    await page.goto(`/o/${org}/account/security`);
    await page.getByText('8 codes are left.').waitFor();
    ana.errors.splice(0);
  });

  await t.test('adds a passkey and signs in with it', async () => {
    const { page } = ana;
    const device = await page.context().newCDPSession(page);
    await device.send('WebAuthn.enable');
    await device.send('WebAuthn.addVirtualAuthenticator', {
      options: {
        protocol: 'ctap2',
        transport: 'internal',
        hasResidentKey: true,
        hasUserVerification: true,
        isUserVerified: true,
        automaticPresenceSimulation: true,
      },
    });
    await page.getByRole('button', { name: 'Add a passkey' }).click();
    await page.getByRole('dialog').getByLabel('Name').fill('My phone');
    await look(page, 'a new passkey');
    await page.getByRole('dialog').getByRole('button', { name: 'Add a passkey' }).click();
    await page.getByTestId('passkey').filter({ hasText: 'My phone' }).getByText('Never used').waitFor();
    await look(page, 'security with a passkey');
    await signOut(page);
    await page.getByRole('button', { name: 'Use a passkey' }).click(); // neither address nor password
    await isIn(page);
    await signOut(page);
    await enterPassword(ana);
    await page.getByRole('button', { name: 'Use a passkey' }).click();
    await isIn(page);
    await page.goto(`/o/${org}/account/security`);
    await page.getByTestId('passkey').filter({ hasText: 'My phone' }).getByText('Last used').waitFor();
    ana.errors.splice(0);
  });

  await t.test('a member joins', async () => {
    await ana.page.goto(`/o/${org}/settings/members`);
    await ana.page.getByLabel('E-mail address').fill(ben.email);
    await ana.page.getByRole('button', { name: 'Send the invitation' }).click();
    await ana.page.getByTestId('invite').filter({ hasText: ben.email }).waitFor();
    const { page } = ben;
    await page.goto(await mailLink(ben.email, 'invite'));
    await page.getByRole('link', { name: 'Create an account' }).click();
    await page.getByLabel('Your name').fill('Ben Brook');
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.getByRole('button', { name: 'Create account' }).click();
    await page.getByRole('button', { name: 'Accept the invitation' }).click();
    await isIn(page);
  });

  await t.test('the organisation requires a second factor, and holds the member who has none', async () => {
    await ana.page.goto(`/o/${org}/settings`);
    await ana.page.getByLabel('Require a second factor of all members').click();
    await ana.page.getByText('From now on every member needs a second factor.').waitFor();
    const { page } = ben;
    await heading(page, 'Two Locks requires a second factor').waitFor(); // by itself
    await look(page, 'held at the door');
    await page.getByRole('link', { name: 'Set up a second factor' }).click();
    await enrol(page);
    await page.getByText('You have a second factor now.').waitFor();
    await look(page, 'let in again');
    await page.getByRole('link', { name: 'Go to Two Locks' }).click();
    await isIn(page);
    ben.errors.splice(0); // the browser's own lines about the 403s at the door
  });

  assert.deepEqual([...ana.errors, ...ben.errors], [], 'the browsers’ consoles');
  t.diagnostic(`T30: a second factor, ${looked.length} pages at 390 px, axe 0 serious, 0 console errors`);
  await ana.close();
  await ben.close();
});
