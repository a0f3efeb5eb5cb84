// The end of things: an owner takes the data along, deletes the organisation, keeps it after all, deletes it again; and
// somebody deletes his account.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { axe, launch, makeOrganisation, newAddress, newPage, PASSWORD, signUp } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

const ORG = 'Night Owls';
const heading = (page, name, level = 1) => page.getByRole('heading', { name, level });

test('T30 data are taken along, an organisation and an account are deleted', { timeout: 240_000 }, async (t) => {
  const owner = await newPage(browser, { acceptDownloads: true });
  const leaver = await newPage(browser, { viewport: { width: 390, height: 844 }, colorScheme: 'dark' });
  const looked = [];
  const look = async (page, where) => {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${where} is ${over} px too wide`);
    looked.push(await axe(page, where));
  };
  const join = async ({ page }, name) => {
    const email = newAddress(name);
    await signUp(page, name, email);
    return email;
  };
  /** Shows once more who one is, where that is asked for. */
  const prove = async (page, done) => {
    const password = page.getByRole('dialog').getByLabel('Password', { exact: true });
    await Promise.race([password.waitFor(), done.waitFor()]);
    if (await done.isVisible()) return;
    await look(page, 'who one is');
    await password.fill(PASSWORD);
    await password.press('Enter');
    await done.waitFor();
  };
  const doom = async (page) => {
    await page.getByRole('button', { name: 'Delete…' }).click();
    const dialog = page.getByRole('dialog');
    const button = dialog.getByRole('button', { name: 'Delete this organisation' });
    assert.ok(await button.isDisabled(), 'it can be deleted by one click');
    await dialog.getByRole('textbox').fill(ORG);
    await look(page, 'the question');
    await button.click();
    await prove(page, page.getByText(`${ORG} is going to be deleted on`));
  };
  const end = async (page, email) => {
    await page.getByRole('button', { name: 'Delete…' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('textbox').fill(email);
    await look(page, 'the question about an account');
    await dialog.getByRole('button', { name: 'Delete your account' }).click();
  };
  let org;
  let olga;

  await t.test('an owner asks for an archive and downloads it', async () => {
    const { page } = owner;
    olga = await join(owner, 'Olga');
    org = await makeOrganisation(page, ORG, 'owls');
    await page.goto(`/o/${org}/settings/danger`);
    await page.getByRole('button', { name: 'Make an archive' }).click();
    await page.getByText(/can be downloaded until/).waitFor();
    await look(page, 'the danger zone');
    const [file] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Download' }).click(),
    ]);
    assert.match(file.suggestedFilename(), /^owls-.*\.zip$/);
    const raw = readFileSync(await file.path());
    assert.equal(raw.subarray(0, 2).toString(), 'PK');
    for (const name of ['README.txt', 'schema.json', 'tenants.json', 'people.json'])
      assert.ok(raw.includes(name), `${name} is not in the archive`);
  });

  await t.test('deletes the organisation, and keeps it after all', async () => {
    const { page } = owner;
    await doom(page);
    await look(page, 'an organisation that goes');
    await page.goto(`/o/${org}`);
    await page.getByText(`${ORG} is going to be deleted on`).waitFor();
    await page.getByRole('button', { name: 'Keep it' }).click();
    await page.getByText(`${ORG} is kept.`).waitFor();
    await page.getByText(`${ORG} is going to be deleted on`).waitFor({ state: 'detached' });
  });

  await t.test('an owner cannot delete his account', async () => {
    const { page } = owner;
    await page.goto(`/o/${org}/account`);
    await end(page, olga);
    await prove(page, page.getByText(/hand .* over/i).last());
    owner.errors.splice(0); // the browser's own line about the 409
  });

  await t.test('somebody who owns nothing deletes his', async () => {
    const { page } = leaver;
    const lars = await join(leaver, 'Lars');
    await page.goto('/account');
    await heading(page, 'Delete your account', 3).waitFor();
    await look(page, 'an account');
    await end(page, lars);
    await prove(page, page.getByText('Your account is deleted.'));
    await heading(page, 'Sign in').waitFor();
    leaver.errors.splice(0); // what was still being asked for
    await page.getByLabel('E-mail address').fill(lars);
    await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText(/do not fit|not right|wrong/i).waitFor();
    leaver.errors.splice(0); // the browser's own line about the 400
  });

  assert.deepEqual([...owner.errors, ...leaver.errors], []);
  console.log(`# T30: the end of things, ${looked.length} pages, axe 0 serious, 0 console errors`);
});
