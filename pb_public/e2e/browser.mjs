// What the browser suites share: the browser, one person, and what every page has to hold.
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export const base = need('E2E_BASE_URL');
const mailUrl = need('E2E_MAIL_URL');

function need(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: deploy/dev/browser.sh sets it`);
  return value.replace(/\/$/, '');
}

/** The browser, behind chromium.sh. */
export async function launch() {
  process.env.E2E_FORWARD = join(mkdtempSync(join(tmpdir(), 'e2e-')), 'panel.sock');
  const { outside } = await import('./forward.mjs');
  outside();
  return chromium.launch({ executablePath: fileURLToPath(new URL('chromium.sh', import.meta.url)), args: FLAGS });
}

/** A page that remembers what its console complained of. */
export async function newPage(browser, options = {}) {
  const context = await browser.newContext({ baseURL: base, viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const errors = [];
  page.on('console', (m) => m.type() === 'error' && errors.push(`${m.text()} (${m.location().url})`));
  page.on('pageerror', (e) => errors.push(String(e.stack ?? e)));
  return { page, errors, close: () => context.close() };
}

/** Fails on serious or critical findings of axe; returns how many rules passed. E2E_AXE=0 leaves it out. */
export async function axe(page, where) {
  await page.evaluate(() =>
    Promise.all(
      document
        .getAnimations()
        .map((a) => (a.effect?.getTiming().iterations === Infinity ? null : a.finished.catch(() => null))),
    ),
  );
  if (process.env.E2E_AXE === '0') return 0;
  const { violations, passes } = await new AxeBuilder({ page }).analyze();
  const bad = violations.filter((v) => v.impact === 'serious' || v.impact === 'critical');
  const told = bad.map(
    (v) => `${v.id}: ${v.nodes.map((n) => `${n.target.join(' ')}\n      ${n.failureSummary}`).join('\n    ')}`,
  );
  assert.deepEqual(told, [], `axe on ${where}`);
  return passes.length;
}

/** Waits for a mail to the address in which something is, the newest first, and returns what matched. */
export async function mails(address, what) {
  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline) {
    const all = await (await fetch(`${mailUrl}/messages?to=${encodeURIComponent(address)}`)).json();
    for (const mail of all.reverse()) {
      const found = what.exec(`${mail.html}\n${mail.text ?? ''}`);
      if (found) return found;
    }
    await new Promise((done) => setTimeout(done, 200));
  }
  throw new Error(`no mail with ${what} came to ${address}`);
}

/** The path and fragment of the link of a mail to the address. */
export async function mailLink(address, path) {
  const [link] = await mails(address, new RegExp(`${path}#[^"'\\s<]*token=[^"'\\s<]+`));
  return `/${link.replace(/^\//, '').replaceAll('&amp;', '&')}`;
}

/** An address that nobody had before. */
export const newAddress = (name) => `${name}-${Date.now().toString(36)}${Math.floor(Math.random() * 1e6)}@example.org`;

export const PASSWORD = 'a-long-password';

/** Signs somebody up and confirms the address; the page for an organisation of his own is there then. */
export async function signUp(page, name, email) {
  await page.goto('/sign-up');
  await page.getByLabel('Your name').fill(name);
  await page.getByLabel('E-mail address').fill(email);
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
  await page.getByRole('button', { name: 'Create account' }).click();
  await page.getByRole('heading', { name: 'Check your mail' }).waitFor();
  await page.goto(await mailLink(email, 'verify'));
  await page.getByRole('link', { name: 'Continue' }).click();
}

/** Makes an organisation whose address begins with slug, and returns the address. */
export async function makeOrganisation(page, name, slug) {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Address').fill(`${slug}-${Date.now().toString(36)}`);
  await page.getByRole('button', { name: 'Create organisation' }).click();
  await page.getByRole('heading', { name: 'No servers yet', level: 2 }).waitFor();
  return new URL(page.url()).pathname.split('/')[2];
}
