// Takes a picture of every page at three widths in both themes, into screenshots/ (git ignores it).
// usage: E2E_BASE_URL=… E2E_MAIL_URL=… node e2e/screens.mjs [part of a name]
import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { launch, mailLink, newAddress, newPage } from './browser.mjs';

const out = fileURLToPath(new URL('../screenshots/', import.meta.url));
const widths = [390, 820, 1440];
const only = process.argv[2] ?? '';
await mkdir(out, { recursive: true });
const browser = await launch();
const { page, errors } = await newPage(browser);

async function shoot(name, prepare) {
  if (!name.includes(only)) return;
  for (const width of widths) {
    await page.setViewportSize({ width, height: width === 390 ? 844 : 900 });
    for (const scheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
      await prepare?.();
      await page.waitForTimeout(350);
      await page.screenshot({ path: `${out}${name}-${width}-${scheme}.png` });
    }
  }
}
const WEBHOOK = 'https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz'; // nobody's
const ask = (method, path, body) =>
  page.evaluate(
    async ([method, path, body]) => {
      const { token } = JSON.parse(localStorage.getItem('mamba.session'));
      const headers = { Authorization: token, 'Content-Type': 'application/json' };
      await fetch(`/api/v1/${path}`, { method, headers, body: JSON.stringify(body) });
    },
    [method, path, body],
  );
const go = async (path, wait) => {
  await page.goto(path);
  if (wait) await page.locator(wait).first().waitFor();
};

await go('/sign-in', 'h1');
await shoot('01-sign-in');
await go('/forgot-password', 'h1');
await shoot('02-forgot');
const email = newAddress('ana');
await go('/sign-up', 'h1');
await shoot('03-sign-up');
await page.getByLabel('Your name').fill('Ana Keller');
await page.getByLabel('E-mail address').fill(email);
await page.getByLabel('Password', { exact: true }).fill('a-long-password');
await page.getByRole('button', { name: 'Create account' }).click();
await page.getByRole('heading', { name: 'Check your mail' }).waitFor();
await shoot('04-check-mail');
await go(await mailLink(email, 'verify'));
await page.getByRole('heading', { name: 'Your address is confirmed' }).waitFor();
await shoot('05-verified');
await go('/welcome', 'form');
await shoot('06-welcome');
await page.getByLabel('Name').fill('Night Owls');
await page.getByLabel('Address').fill(`night-owls-${Date.now().toString(36)}`);
await page.getByRole('button', { name: 'Create organisation' }).click();
await page.getByRole('heading', { name: 'No servers yet' }).waitFor();
await shoot('07-no-servers');
await page.getByRole('link', { name: 'New server' }).first().click();
await page.getByRole('button', { name: /^.*Demo world/ }).waitFor();
await shoot('08-games');
const org = new URL(page.url()).pathname.split('/')[2];
await page.getByRole('button', { name: /Demo world/ }).click();
await page.getByLabel('Server name').fill('Friday night');
await page.getByText('Let us choose').waitFor();
await shoot('09-settings', () => page.evaluate(() => scrollTo(0, 0)));
await page.getByRole('button', { name: 'Continue' }).click();
await page.getByRole('button', { name: 'Create server' }).waitFor();
await shoot('10-review');
await page.setViewportSize({ width: 1440, height: 900 });
await page.getByRole('button', { name: 'Create server' }).click();
await page.getByRole('heading', { name: /Installing/ }).waitFor();
await page.waitForTimeout(Number(process.env.E2E_INSTALL_LOOK_MS ?? 400));
if ('11-install'.includes(only)) await page.screenshot({ path: `${out}11-install-1440-light.png` });
await page.locator('[data-status="RUNNING"]').first().waitFor({ timeout: 120_000 });
await page.waitForURL(/\/console$/, { timeout: 60_000 });
await page.getByLabel('Command').fill('say hello');
await page.getByLabel('Command').press('Enter');
await page.waitForTimeout(500);
await shoot('12-console');
const server = new URL(page.url()).pathname.replace(/\/console$/, '');
await go(server, 'dl');
await shoot('13-overview');
await go(`${server}/settings`, 'form');
await shoot('14-settings');
await page.getByRole('button', { name: 'Delete this server' }).click();
await shoot('15-delete');
await go(`${server}/activity`, 'li time');
await shoot('16-activity');
await go(`${server}/install`, 'ol li');
await shoot('17-installed');
const id = server.split('/').at(-1);
await go(`/o/${org}/settings`, 'form');
await page.getByLabel('Short name').fill('another-name');
await shoot('23-organisation');
await go(`/o/${org}/settings/roles`, '[data-testid="role"]');
await page.getByRole('button', { name: 'New role' }).click();
await page.getByRole('button', { name: /Console only/ }).click();
await shoot('24-new-role');
await page.getByRole('button', { name: 'Make the role' }).click();
await page.getByTestId('role').filter({ hasText: 'Console only' }).waitFor();
await shoot('25-roles');
await go(`/o/${org}/servers/${id}/access`, 'form');
await shoot('26-access');
const friend = newAddress('fred');
await page.getByLabel('E-mail address').fill(friend);
await page.getByLabel('Role', { exact: true }).selectOption('Console only');
await page.getByRole('button', { name: 'Send the invitation' }).click();
await page.getByTestId('invite').waitFor();
await go(`/o/${org}/settings/members`, '[data-testid="invite"]');
await shoot('27-members');
await go(`/o/${org}/settings/danger`, 'h3');
await shoot('28-danger-zone');
await go(`/o/${org}/settings/keys`, 'h2');
await shoot('30-keys-of-the-organisation');
await go(`/o/${org}/settings/audit`, '[data-testid="entry"]');
await shoot('31-audit-log');
await page.getByTestId('entry').first().locator('summary').click();
await shoot('32-audit-entry');
await go(`/o/${org}/account/security`, '[data-testid="session"]');
await shoot('33-security');
await page.getByRole('button', { name: 'Set up' }).click();
await page.getByTestId('totp-secret').waitFor();
await shoot('34-authenticator');
await go(`/o/${org}/account/notices`, 'table');
await shoot('35-notice-settings');
await go(`/o/${org}/account/keys`, 'h2');
await page.getByRole('button', { name: 'New key' }).click();
await page.getByLabel('Name of the key').fill('Nightly restart');
await page.getByRole('checkbox', { name: 'Restart' }).check();
await shoot('36-new-key');
await page.getByRole('button', { name: 'Make the key' }).click();
await page.getByRole('button', { name: 'I have kept it' }).waitFor();
await shoot('37-a-key');
await page.getByRole('button', { name: 'I have kept it' }).click();
await page.getByTestId('key').waitFor();
await shoot('38-keys');
await go(`/o/${org}/notices`, 'h1');
await shoot('39-notices');
await ask('POST', `tenants/${org}/channels`, { name: 'ops room', url: WEBHOOK });
await go(`/o/${org}/settings`, '[data-testid="webhook"]');
await page.getByRole('button', { name: /kinds of news/ }).click();
await shoot('40-kinds-of-a-webhook', () => page.getByTestId('webhook').scrollIntoViewIfNeeded());
await page.setViewportSize({ width: 1440, height: 900 });
await go(`/o/${org}/servers`, '[data-testid="server-row"]');
await page.getByRole('button', { name: /^Notices/ }).click();
await page.getByTestId('bell-notice').first().waitFor();
if ('41-bell'.includes(only)) await page.screenshot({ path: `${out}41-bell-1440-light.png` });
await page.keyboard.press('Escape');
await go(await mailLink(friend, 'invite'), 'dl');
await shoot('29-invitation-for-another');
await go(`/o/${org}/servers`, '[data-testid="server-row"]');
await shoot('18-servers');
await page.setViewportSize({ width: 1440, height: 900 });
await shoot('19-palette', async () => {
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+k');
  await page.getByRole('combobox', { name: 'Search pages, servers and actions' }).fill('fri');
});
await page.keyboard.press('Escape');
await go(`/o/${org}/servers?q=nothing-like-this`, 'h2');
await shoot('20-no-match');
await go(`/o/${org}/account`, 'form');
await shoot('21-account');
await go('/nowhere', 'h1');
await shoot('22-missing');
console.log(`pictures are in screenshots/; console errors: ${errors.length}`);
for (const e of errors) console.log(`  ${e}`);
await browser.close();
