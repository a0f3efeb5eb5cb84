// T30: the main tasks in a real browser against a real panel, by mouse at 1440 px and by keyboard alone
// at 390 px. Every page on the way is looked at by axe; the browser's console has to stay silent.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { axe, launch, mailLink, newAddress, newPage } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

const PASSWORD = 'a-long-password';
const INSTALL_MS = 120_000;
const heading = (page, name) => page.getByRole('heading', { name, level: 1 });
const parts = (page) => page.getByRole('navigation', { name: 'Parts of this server' });
const status = (page, value, timeout = INSTALL_MS) =>
  page.locator(`[data-testid="status-line"] [data-status="${value}"]`).waitFor({ timeout });

test('T30 sign up, verify, create, watch, console, stop, start, delete', { timeout: 300_000 }, async (t) => {
  const { page, errors, close } = await newPage(browser);
  const looked = [];
  const look = async (where) => looked.push(await axe(page, where));
  const email = newAddress('ana');

  await t.test('signs up and confirms the address from the mail', async () => {
    await page.goto('/');
    await heading(page, 'Sign in').waitFor();
    await look('sign in');
    await page.getByRole('link', { name: 'Forgot your password?' }).click();
    await heading(page, 'Set a new password').waitFor();
    await look('forgot password');
    await page.goto('/sign-up');
    await page.getByRole('button', { name: 'Create account' }).click();
    await page.getByText('Tell us your name.').waitFor();
    await look('sign up with faults');
    await page.getByLabel('Your name').fill('Ana Keller');
    await page.getByLabel('E-mail address').fill(email);
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.getByRole('button', { name: 'Create account' }).click();
    await heading(page, 'Check your mail').waitFor();
    await look('check your mail');
    await page.goto(await mailLink(email, 'verify'));
    await heading(page, 'Your address is confirmed').waitFor();
    await look('verified');
  });

  await t.test('makes an organisation', async () => {
    await page.getByRole('link', { name: 'Continue' }).click();
    await heading(page, 'Name your organisation').waitFor();
    await look('welcome');
    await page.getByLabel('Name').fill(`Owls ${email}`.slice(0, 24));
    await page.getByRole('button', { name: 'Create organisation' }).click();
    await page.getByRole('heading', { name: 'No servers yet' }).waitFor();
    await look('no servers');
  });

  await t.test('goes through the wizard and watches the install', async () => {
    await page.getByRole('main').getByRole('link', { name: 'New server' }).click();
    await page.getByRole('button', { name: /Demo world/ }).waitFor();
    await look('games');
    await page.getByRole('button', { name: /Demo world/ }).click();
    await page.getByLabel('Server name').fill('');
    await page.getByText('Let us choose').waitFor();
    await page.getByRole('button', { name: 'Continue' }).click();
    await page.getByText('Give it a name.').waitFor();
    await look('settings with a fault');
    await page.getByLabel('Server name').fill('Friday night');
    await page.getByRole('button', { name: 'Continue' }).click();
    await page.getByRole('button', { name: 'Create server' }).waitFor();
    await look('review');
    await page.getByRole('button', { name: 'Create server' }).click();
    await page.waitForURL(/\/install$/);
    await page.getByRole('list', { name: 'Progress' }).waitFor();
    await page.waitForURL(/\/console$/, { timeout: INSTALL_MS });
    await status(page, 'RUNNING');
  });

  await t.test('types a command and reads its answer', async () => {
    await page.getByLabel('Command').fill('say hello from the browser');
    await page.getByLabel('Command').press('Enter');
    const text = page.getByTestId('console-text');
    await text
      .locator('p', { hasText: /hello from the browser/ })
      .nth(1)
      .waitFor({ state: 'attached' }); // what was typed, and the answer
    await page.locator('.xterm-screen').waitFor();
    assert.equal(await page.getByLabel('Command').inputValue(), '');
    await page.getByLabel('Command').press('ArrowUp');
    assert.equal(await page.getByLabel('Command').inputValue(), 'say hello from the browser');
    await page.getByLabel('Command').fill('');
    await look('console');
  });

  await t.test('opens every menu', async () => {
    await page.getByRole('button', { name: 'More actions' }).click();
    await page.getByRole('menuitem', { name: 'Kill' }).waitFor();
    await look('more actions');
    await page.getByRole('menuitem', { name: 'Kill' }).click();
    await page.getByRole('dialog').waitFor();
    await look('kill dialog');
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await page
      .getByRole('button', { name: /Switch organisation/ })
      .first()
      .click();
    await page.getByRole('menuitem', { name: 'New organisation' }).waitFor();
    await look('switcher');
    await page.keyboard.press('Escape');
  });

  await t.test('stops and starts it, and everything follows by itself', async () => {
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await status(page, 'STOPPED');
    assert.equal(await page.getByRole('button', { name: 'Stop', exact: true }).count(), 0);
    await page.getByRole('link', { name: 'Overview' }).click();
    await page.getByRole('heading', { name: 'Details' }).waitFor();
    await page.getByText('Stopped the server').waitFor();
    await look('overview');
    await page.getByRole('button', { name: 'Start', exact: true }).click();
    await status(page, 'RUNNING');
    await page.getByRole('link', { name: 'Activity', exact: true }).click();
    await page.getByText('Created the server').waitFor();
    await look('activity');
  });

  await t.test('renames it and takes that back', async () => {
    await parts(page).getByRole('link', { name: 'Settings' }).click();
    await page.getByLabel('Server name').fill('Saturday night');
    await look('settings');
    await page.getByRole('button', { name: 'Save changes' }).first().click();
    await heading(page, 'Saturday night').waitFor();
    await page.getByRole('button', { name: 'Undo' }).click();
    await heading(page, 'Friday night').waitFor();
  });

  await t.test('shows a name that is markup as text', async () => {
    const rename = async (name) => {
      await page.getByLabel('Server name').fill(name);
      await page.getByRole('button', { name: 'Save changes' }).first().click();
      await heading(page, name).waitFor();
    };
    await rename('<img src=x onerror="window.owned=1">');
    assert.equal(await page.evaluate(() => window.owned ?? document.querySelectorAll('img[src="x"]').length), 0);
    await rename('Friday night');
  });

  await t.test('reads what it uses', async () => {
    await page.getByRole('link', { name: 'Overview' }).click();
    await page.getByRole('heading', { name: 'Usage' }).waitFor();
    // A window of 30 s has to end, and to come from the node.
    const cpu = page.getByTestId('usage-CPU');
    await cpu.filter({ hasText: /cores? of/ }).waitFor({ timeout: 120_000 });
    await page
      .getByTestId('usage-Memory')
      .filter({ hasText: /MiB of/ })
      .waitFor();
    await page.locator('canvas').nth(3).waitFor();
    assert.equal(await page.getByRole('img', { name: /last 1 hour: now/ }).count(), 4);
    await look('usage');
    await page.getByText('24 hours', { exact: true }).click();
    await page.getByRole('img', { name: /^Disk, last 24 hours: now/ }).waitFor();
    await cpu.filter({ hasText: /cores? of/ }).waitFor();
    await page.setViewportSize({ width: 390, height: 844 });
    await page.locator('canvas').first().waitFor();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `the page is ${wide} px wider than the phone`);
    await look('usage on a phone');
    await page.setViewportSize({ width: 1440, height: 900 });
  });

  await t.test('finds it in the list and through the palette', async () => {
    await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Servers' }).click();
    await page.getByTestId('server-row').waitFor();
    await look('servers');
    await page.getByLabel('Search servers').fill('nothing like this');
    await page.getByRole('heading', { name: 'No server matches' }).waitFor();
    assert.match(page.url(), /[?&]q=nothing/);
    await page.getByRole('button', { name: 'Show all servers' }).click();
    await page.getByTestId('server-row').waitFor();
    await page.keyboard.press('Control+k');
    const field = page.getByRole('combobox', { name: 'Search pages, servers and actions' });
    await field.fill('console of friday');
    await page.getByRole('option', { name: /Console of Friday night/ }).waitFor();
    await look('palette');
    await field.press('Enter');
    await page.waitForURL(/\/console$/);
  });

  await t.test('deletes it by typing its name', async () => {
    await parts(page).getByRole('link', { name: 'Settings' }).click();
    await page.getByRole('button', { name: 'Delete this server' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel(/Type Friday night/).fill('friday');
    assert.equal(await dialog.getByRole('button', { name: 'Delete this server' }).isDisabled(), true);
    await look('delete dialog');
    await dialog.getByLabel(/Type Friday night/).fill('Friday night');
    await dialog.getByRole('button', { name: 'Delete this server' }).click();
    await page.getByRole('heading', { name: 'No servers yet' }).waitFor({ timeout: INSTALL_MS });
  });

  await t.test('signs out and in again', async () => {
    await page.getByRole('button', { name: /Account menu/ }).click();
    await page.getByRole('menuitem', { name: 'Account' }).click();
    await heading(page, 'Account').waitFor();
    await look('account');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await heading(page, 'Sign in').waitFor();
    await page.getByLabel('E-mail address').fill(email);
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('heading', { name: 'No servers yet' }).waitFor();
    await page.goto('/nowhere');
    await heading(page, 'There is no such page').waitFor();
    await look('missing page');
  });

  assert.deepEqual(errors, [], 'the browser console');
  const rules = looked.reduce((a, b) => a + b, 0);
  t.diagnostic(
    `T30: ${looked.length} pages, ${rules > 0 ? `axe 0 serious, ${rules} rules passed` : 'without axe'}, 0 console errors`,
  );
  await close();
});

/** Presses Tab until what has the focus is called that. Fails when it cannot be reached. */
async function tabTo(page, name, key = 'Tab') {
  for (let i = 0; i < 150; i++) {
    const called = await page.evaluate(() => {
      const el = document.activeElement;
      if (!el || el === document.body || el.id === 'main') return '';
      const labelled = el
        ?.getAttribute('aria-labelledby')
        ?.split(' ')
        .map((id) => document.getElementById(id)?.textContent)
        .join(' ');
      return (el?.getAttribute('aria-label') || labelled || (el?.labels?.[0] ?? el)?.textContent || '').trim();
    });
    if (name instanceof RegExp ? name.test(called) : called.replace(/ \*$/, '') === name) return;
    await page.keyboard.press(key);
  }
  throw new Error(`the keyboard does not reach ${name}`);
}

test('T30 the same by keyboard alone at 390 px', { timeout: 300_000 }, async (t) => {
  const { page, errors, close } = await newPage(browser, {
    viewport: { width: 390, height: 844 },
    colorScheme: 'dark',
    reducedMotion: 'reduce',
  });
  const email = newAddress('kim');
  const press = async (name, key = 'Enter') => {
    await tabTo(page, name);
    await page.keyboard.press(key);
  };
  const type = async (name, text) => {
    await tabTo(page, name);
    await page.keyboard.press('Control+a');
    await page.keyboard.type(text);
  };
  const wide = async (where) => {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${where} is ${over} px too wide`);
    await axe(page, `${where} at 390 px`);
  };

  await page.goto('/sign-up');
  await heading(page, 'Create your account').waitFor();
  await type('Your name', 'Kim');
  await type('E-mail address', email);
  await type('Password', PASSWORD);
  await page.keyboard.press('Enter');
  await heading(page, 'Check your mail').waitFor();
  await wide('check your mail');
  await page.goto(await mailLink(email, 'verify'));
  await heading(page, 'Your address is confirmed').waitFor();
  await press('Continue');
  await heading(page, 'Name your organisation').waitFor();
  await type('Name', `Kims ${email}`.slice(0, 24));
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'No servers yet' }).waitFor();
  await wide('no servers');
  await press('New server');
  await page.getByRole('button', { name: /Demo world/ }).waitFor();
  await wide('games');
  await press(/Demo world/);
  await page.getByText('Let us choose').waitFor();
  await type('Server name', 'Pocket');
  await tabTo(page, 'Memory');
  await page.keyboard.press('ArrowRight');
  await wide('settings');
  await press('Continue');
  await page.getByRole('button', { name: 'Create server' }).waitFor();
  await wide('review');
  await press('Create server');
  await page.waitForURL(/\/install$/);
  await wide('install');
  await page.waitForURL(/\/console$/, { timeout: INSTALL_MS });
  await status(page, 'RUNNING');
  await type('Command', 'say hello from the keyboard');
  await page.keyboard.press('Enter');
  await page
    .getByTestId('console-text')
    .locator('p', { hasText: /hello from the keyboard/ })
    .nth(1)
    .waitFor({ state: 'attached' });
  await wide('console');
  await page.evaluate(() => document.getElementById('main')?.focus());
  await press('More actions');
  await page.getByRole('menuitem', { name: 'Kill' }).waitFor();
  await wide('more actions');
  await page.keyboard.press('Enter'); // the first item has the focus
  await page.getByRole('dialog').waitFor();
  await wide('kill dialog');
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.evaluate(() => document.getElementById('main')?.focus());
  await press('Stop');
  await status(page, 'STOPPED');
  await page.evaluate(() => document.getElementById('main')?.focus());
  await press('Start');
  await status(page, 'RUNNING');
  await page.evaluate(() => document.getElementById('main')?.focus());
  await press('Settings');
  await page.getByRole('heading', { name: 'Danger zone' }).waitFor();
  await wide('settings of a server');
  await press('Delete this server');
  await page.getByRole('dialog').waitFor();
  await type(/^Type Pocket/, 'Pocket');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'No servers yet' }).waitFor({ timeout: INSTALL_MS });
  await press('Account');
  await heading(page, 'Account').waitFor();
  await wide('account');
  assert.deepEqual(errors, [], 'the browser console');
  t.diagnostic('T30: the journey by keyboard at 390 px, 0 console errors');
  await close();
});

test('T30 what goes wrong is said, and nothing typed is lost', { timeout: 300_000 }, async (t) => {
  const { page, errors, close } = await newPage(browser, { viewport: { width: 820, height: 900 } });
  const email = newAddress('lou');
  await page.goto('/sign-up');
  await page.getByLabel('Your name').fill('Lou');
  await page.getByLabel('E-mail address').fill(email);
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
  await page.getByRole('button', { name: 'Create account' }).click();
  await heading(page, 'Check your mail').waitFor();
  await page.goto(await mailLink(email, 'verify'));
  await heading(page, 'Your address is confirmed').waitFor();

  await t.test('a link that is used up leads on', async () => {
    await page.goto('/reset-password#token=nonsense');
    await page.getByLabel('New password').fill(PASSWORD);
    await page.getByRole('button', { name: 'Save the password' }).click();
    await heading(page, 'This link does not work any more').waitFor();
    await axe(page, 'a dead link');
    await page.getByRole('link', { name: 'Have a new link sent' }).click();
    await heading(page, 'Set a new password').waitFor();
  });

  await t.test('the wizard survives a reload and the back button', async () => {
    await page.goto('/welcome');
    await page.getByLabel('Name').fill(`Lou ${email}`.slice(0, 24));
    await page.getByRole('button', { name: 'Create organisation' }).click();
    await page.getByRole('heading', { name: 'No servers yet' }).waitFor();
    await page.getByRole('main').getByRole('link', { name: 'New server' }).click();
    await page.getByRole('button', { name: /Luanti/ }).click();
    await page.getByText('Let us choose').waitFor();
    await page.getByLabel('Server name').fill('Blocks');
    await page.reload();
    await page.getByText('Let us choose').waitFor();
    assert.equal(await page.getByLabel('Server name').inputValue(), 'Blocks');
    await page.getByRole('button', { name: 'Continue' }).click();
    await page.getByRole('button', { name: 'Create server' }).waitFor();
    await page.goBack();
    await page.getByLabel('Server name').waitFor();
    assert.equal(await page.getByLabel('Server name').inputValue(), 'Blocks');
    await page.goForward();
    await page.getByRole('button', { name: 'Create server' }).waitFor();
  });

  await t.test('an image that is not to be had is told at once, and how to go on', async () => {
    await page.getByRole('button', { name: 'Create server' }).click();
    await page.waitForURL(/\/install$/);
    await status(page, 'INSTALL_FAILED', 60_000);
    await page.getByText('could not be downloaded').waitFor();
    await page.getByRole('button', { name: 'Install again' }).waitFor();
    await axe(page, 'a failed install');
    await page.getByRole('link', { name: 'Overview' }).click();
    await page.getByText('The install failed').first().waitFor();
    await axe(page, 'the overview of a failed install');
  });

  await t.test('what does not exist says so', async () => {
    const org = new URL(page.url()).pathname.split('/')[2];
    // The page may ask for the console in the moment in which the server is withdrawn from its node.
    const said = errors.splice(0).filter((line) => !/console\/ws.*409/.test(line));
    assert.equal(said.length, 1, `only the dead link is in the console of the browser, not ${said.join(' | ')}`);
    await page.goto(`/o/${org}/servers/nonsense1234567`);
    await page.getByRole('heading', { name: 'This server does not exist', level: 2 }).waitFor();
    await axe(page, 'a server that is not there');
    await page.goto('/o/nobody-is-here/servers');
    await page.getByRole('heading', { name: /This organisation does not exist/, level: 2 }).waitFor();
    await axe(page, 'an organisation that is not there');
  });
  await close();
});
