// A friend is given one server's console and nothing else, and loses it again: two people in two browsers. The audit
// log has it all, and who edits it is found.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { axe, base, launch, mailLink, makeOrganisation, newAddress, newPage, PASSWORD, signUp } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

const INSTALL_MS = 120_000;
const CUT_MS = 1000; // from the request that takes an access away to the end of the console
const heading = (page, name, level = 1) => page.getByRole('heading', { name, level });
const main = (page) => page.getByRole('navigation', { name: 'Main' });
const parts = (page) =>
  page.getByRole('navigation', { name: 'Parts of this server' }).getByRole('link').allInnerTexts();

/** A server made past the wizard, which another journey looks at. */
async function makeServer(page, org, name, start) {
  const token = await page.evaluate(() => JSON.parse(localStorage.getItem('mamba.session')).token);
  const answer = await fetch(`${base}/api/v1/servers`, {
    method: 'POST',
    headers: { Authorization: token, 'X-Tenant': org, 'Content-Type': 'application/json' },
    body: JSON.stringify({
      name,
      blueprint: 'demo',
      limits: { cpu_millicores: 500, memory_mib: 256, disk_gib: 1 },
      variables: {},
      start,
    }),
  });
  assert.equal(answer.status, 202, await answer.clone().text());
  return (await answer.json()).server.id;
}

const run = promisify(execFile);
const data = process.env.E2E_DATA; // the panel's folder; deploy/dev/browser.sh sets it
const program = fileURLToPath(new URL('../../bin/mambahost', import.meta.url));
/** How "audit verify" ends beside the running panel, and what it says. */
const verifyAudit = () =>
  run(program, ['audit', 'verify', '--dir', data]).then(
    ({ stdout, stderr }) => ({ code: 0, said: stdout + stderr }),
    ({ code, stdout, stderr }) => ({ code, said: stdout + stderr }),
  );
const sql = async (statement) =>
  (await run('sqlite3', ['-cmd', '.timeout 10000', `${data}/data.db`, statement])).stdout.trim();

test('T30 a friend is let in for one server’s console, by mail, and out again', { timeout: 300_000 }, async (t) => {
  const owner = await newPage(browser);
  const friend = await newPage(browser, { viewport: { width: 390, height: 844 }, colorScheme: 'dark' });
  const looked = [];
  const look = async (page, where) => {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${where} is ${over} px too wide`);
    looked.push(await axe(page, where));
  };
  const [olga, fred] = [newAddress('olga'), newAddress('fred')];
  let org;
  let server;
  let cut;

  await t.test('the owner has an organisation with two servers', async () => {
    const { page } = owner;
    await signUp(page, 'Olga Owner', olga);
    org = await makeOrganisation(page, 'Night Owls', 'owls');
    server = await makeServer(page, org, 'Friday night', true);
    await makeServer(page, org, 'Not for friends', false);
    await page.getByTestId('server-row').nth(1).waitFor(); // by themselves
  });

  await t.test('makes a role from a preset', async () => {
    const { page } = owner;
    await main(page).getByRole('link', { name: 'Settings' }).click();
    await page.getByLabel('Name of the organisation').waitFor();
    await look(page, 'general settings');
    await page.getByRole('link', { name: 'Roles' }).click();
    await page.getByRole('heading', { name: 'No roles of your own yet' }).waitFor();
    await look(page, 'roles');
    await page.getByRole('button', { name: 'New role' }).click();
    await page.getByRole('button', { name: /Console only/ }).click();
    assert.equal(await page.getByLabel('Name of the role').inputValue(), 'Console only');
    assert.equal(await page.getByRole('checkbox', { name: 'Type commands' }).isChecked(), true);
    assert.equal(await page.getByRole('checkbox', { name: 'Stop' }).isChecked(), false);
    await look(page, 'a new role');
    await page.getByRole('button', { name: 'Make the role' }).click();
    await page.getByTestId('role').filter({ hasText: 'Console only' }).waitFor();
  });

  await t.test('invites a friend to one server', async () => {
    const { page } = owner;
    await page.goto(`/o/${org}/servers/${server}/access`);
    await page.getByRole('heading', { name: 'Nobody was let in for this server alone' }).waitFor();
    await page.getByLabel('E-mail address').fill('fred');
    await page.getByLabel('Role', { exact: true }).selectOption('Console only');
    await page.getByRole('button', { name: 'Send the invitation' }).click();
    await page.getByText('This does not look like an e-mail address.').waitFor();
    await look(page, 'access with a fault');
    await page.getByLabel('E-mail address').fill(fred);
    await page.getByRole('button', { name: 'Send the invitation' }).click();
    await page.getByTestId('invite').filter({ hasText: fred }).waitFor();
    // The same once more is refused at the field, and nothing typed is lost.
    await page.getByLabel('E-mail address').fill(fred);
    await page.getByRole('button', { name: 'Send the invitation' }).click();
    await page.getByText('This address is invited already.').waitFor();
    assert.equal(await page.getByLabel('E-mail address').inputValue(), fred);
    owner.errors.splice(0); // the browser's own line about the 409
  });

  await t.test('the friend follows the mail, makes an account and comes back', async () => {
    const { page } = friend;
    const link = await mailLink(fred, 'invite');
    await page.goto(link);
    await heading(page, 'Join Friday night').waitFor();
    await page.getByText('Olga Owner invites you').waitFor();
    await page.waitForURL((url) => url.hash === '');
    await look(page, 'an invitation');
    await page.getByRole('link', { name: 'Create an account' }).click();
    await heading(page, 'Create your account').waitFor();
    assert.equal(await page.getByLabel('E-mail address').inputValue(), fred);
    await page.getByLabel('Your name').fill('Fred Friend');
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.getByRole('button', { name: 'Create account' }).click();
    await page.getByText(`You are signed in as ${fred}.`).waitFor();
    assert.doesNotMatch(page.url(), /token|id=/);
    await page.reload(); // the invitation is kept
    await page.getByRole('button', { name: 'Accept the invitation' }).waitFor();
    await look(page, 'an invitation to accept');
    await page.getByRole('button', { name: 'Accept the invitation' }).click();
    await heading(page, 'Friday night').waitFor();
  });

  await t.test('the friend has that console and nothing else', async () => {
    const { page } = friend;
    await page.getByRole('link', { name: 'Console', exact: true }).waitFor();
    assert.deepEqual(await parts(page), ['Overview', 'Console', 'Settings']);
    assert.equal(await main(page).getByRole('link', { name: 'Settings' }).count(), 0);
    assert.equal(await page.getByRole('button', { name: /^(Start|Stop|Restart)$/ }).count(), 0);
    await page.getByRole('link', { name: 'Settings', exact: true }).click();
    await page.getByText('You can look at these settings, but not change them.').waitFor();
    await look(page, 'a friend’s view of the settings');
    await page.goto(`/o/${org}/settings/members`);
    await page.getByRole('heading', { name: 'These settings are not for you' }).waitFor();
    await look(page, 'closed settings');
    await page.goto(`/o/${org}/servers/new`);
    await page.getByText('but not create any').waitFor();
    await main(page).getByRole('link', { name: 'Servers' }).click();
    await page.getByTestId('server-row').waitFor();
    assert.equal(await page.getByTestId('server-row').count(), 1);
    const opened = page.waitForEvent('websocket', (socket) => socket.url().includes(`/${server}/console/`));
    await page.goto(`/o/${org}/servers/${server}/console`);
    cut = (await opened).waitForEvent('close', { timeout: 0 }).then(() => performance.now());
    await page.locator('[data-testid="status-line"] [data-status="RUNNING"]').waitFor({ timeout: INSTALL_MS });
    await page.getByLabel('Command').fill('say hello from a friend');
    await page.getByLabel('Command').press('Enter');
    const lines = page.getByTestId('console-text').locator('p', { hasText: /hello from a friend/ });
    await lines.nth(1).waitFor({ state: 'attached' });
  });

  await t.test('the owner sees the friend at once and takes the access away', async () => {
    const { page } = owner;
    await page.getByTestId('access').filter({ hasText: 'Fred Friend' }).waitFor(); // by itself
    await look(page, 'access');
    await page.getByRole('button', { name: 'Take away the access of Fred Friend' }).click();
    await page.getByRole('dialog').getByText('loses the role Console only on Friday night').waitFor();
    await look(page, 'take access away');
    const asked = page.waitForRequest((r) => r.method() === 'DELETE').then(() => performance.now());
    const told = friend.page
      .getByRole('heading', { name: 'This server does not exist', level: 1 }) // by itself
      .waitFor()
      .then(() => performance.now());
    await page.getByRole('dialog').getByRole('button', { name: 'Take away' }).click();
    const from = await asked;
    const [ended, said] = [(await cut) - from, (await told) - from];
    t.diagnostic(`T30: the console was cut after ${ended.toFixed(0)} ms, its page said so after ${said.toFixed(0)} ms`);
    assert.ok(ended <= CUT_MS, `the friend’s console was cut after ${ended} ms`);
    await page.getByTestId('access').waitFor({ state: 'detached' });
    await page.goto(`/o/${org}/settings/members`);
    const row = page.getByTestId('member').filter({ hasText: 'Fred Friend' });
    await row.getByText('No access to any server yet').waitFor();
    await look(page, 'members');
    friend.errors.splice(0); // the browser's own lines about the 404s that say so
    await row.getByRole('button', { name: 'Remove' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await row.waitFor({ state: 'detached' });
    await page.getByRole('link', { name: 'Danger zone' }).click();
    await page.getByText('There is no other member yet.').waitFor();
    await look(page, 'danger zone');
  });

  await t.test('the owner finds all of it in the audit log', async () => {
    const { page } = owner;
    await page.getByRole('link', { name: 'Audit log' }).click();
    const entry = (action, who) => page.getByTestId('entry').filter({ hasText: action }).filter({ hasText: who });
    await entry('member.remove', 'Olga Owner').waitFor();
    await look(page, 'audit log');
    const wanted = [
      ['member.invite', 'Olga Owner', fred],
      ['member.join', 'Fred Friend', server],
      ['console.command', 'Fred Friend', 'say hello from a friend'],
      ['member.update', 'Olga Owner', '"from": "Console only"'],
      ['member.remove', 'Olga Owner', 'users'],
    ];
    for (const [action, who, text] of wanted) {
      const one = entry(action, who);
      await one.locator('summary').click();
      await one.getByRole('definition').filter({ hasText: text }).first().waitFor();
    }
    await look(page, 'audit log with what was done');
    await page.getByLabel('What', { exact: true }).selectOption('Console');
    await entry('member.remove', 'Olga Owner').waitFor({ state: 'detached' });
    await entry('console.command', 'Fred Friend').waitFor();
  });

  await t.test('an invitation that is over says what to do', async () => {
    const { page } = friend;
    await page.goto(await mailLink(fred, 'invite'));
    await heading(page, 'This invitation is over').waitFor();
    await look(page, 'an invitation that is over');
    friend.errors.splice(0);
  });

  await t.test('the organisation gets another address, and its pages go with it', async () => {
    const { page } = owner;
    await page.getByRole('link', { name: 'General' }).click();
    await page.getByLabel('Short name').fill(`${org}-x`);
    await page.getByText('old ones no longer lead here').waitFor();
    await page.getByRole('button', { name: 'Change the address' }).click();
    await page.waitForURL(`**/o/${org}-x/settings`);
    await page.getByLabel('Name of the organisation').fill('Early Birds');
    await page.getByRole('button', { name: 'Save changes' }).click();
    await page.getByRole('button', { name: 'Switch organisation. Now: Early Birds' }).first().waitFor();
  });

  await t.test('a row that was edited behind the panel is found', async () => {
    const before = await verifyAudit();
    assert.equal(before.code, 0, before.said);
    assert.match(before.said, new RegExp(`^${org}-x .*: in order$`, 'm'));
    const row = await sql(
      "UPDATE audit_logs SET metadata = replace(metadata, 'hello', 'nothing') WHERE action = 'console.command' RETURNING seq || ' ' || id",
    );
    const after = await verifyAudit();
    assert.equal(after.code, 1, after.said);
    const fault = `edited at row ${row}: the row was changed after it was written`;
    assert.ok(after.said.includes(`  ${fault}\n`), after.said);
    t.diagnostic(`T30: audit verify: ${before.said.trim().replaceAll('\n', '; ')}; after an edit: ${fault}`);
  });

  assert.deepEqual([...owner.errors, ...friend.errors], [], 'the browsers’ consoles');
  t.diagnostic(`T30: an invitation, ${looked.length} pages, axe 0 serious, 0 console errors`);
  await owner.close();
  await friend.close();
});
