// Somebody wants messages in this browser. The push service is out of reach here, so the message is handed to the real
// service worker by the DevTools protocol, as the browser would after it has decrypted it.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { axe, base, launch, makeOrganisation, newAddress, newPage, signUp } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

/** The id of the worker's registration, once it has one. */
async function registration(devtools) {
  const found = new Promise((done) => {
    devtools.on('ServiceWorker.workerRegistrationUpdated', ({ registrations }) => {
      const one = registrations.find((r) => r.scopeURL === `${base}/` && !r.isDeleted);
      if (one) done(one.registrationId);
    });
  });
  await devtools.send('ServiceWorker.enable');
  return found;
}

test('T30 a push message is shown and leads to its page', { timeout: 180_000 }, async (t) => {
  const { page, errors, close } = await newPage(browser);
  const context = page.context();
  const passed = [];
  let org;
  let worker;

  /** Asks the panel as the page would. */
  const ask = (method, path, body) =>
    page.evaluate(
      async ([method, path, body]) => {
        const { token } = JSON.parse(localStorage.getItem('mamba.session'));
        const answer = await fetch(`/api/v1/${path}`, {
          method,
          headers: { Authorization: token, 'Content-Type': 'application/json' },
          body: body && JSON.stringify(body),
        });
        return { status: answer.status, body: await answer.json().catch(() => null) };
      },
      [method, path, body],
    );

  await t.test('somebody has an organisation', async () => {
    const email = newAddress('pia');
    await signUp(page, 'Pia Push', email);
    org = await makeOrganisation(page, 'Push Owls', 'push');
  });

  await t.test('the bell opens a panel, and what happens comes into it', async () => {
    await page.getByRole('button', { name: 'Notices' }).click();
    const panel = page.getByRole('dialog', { name: 'Notices' });
    await panel.getByText('Nothing has happened yet').waitFor();
    const made = await ask('POST', `tenants/${org}/keys`, { name: 'robot', permissions: ['server.read'] });
    assert.equal(made.status, 201);
    await panel.getByRole('link', { name: /New: A new API key for Push Owls/ }).waitFor(); // by itself
    passed.push(await axe(page, 'the panel of the bell'));
    await page.keyboard.press('Escape');
    await panel.waitFor({ state: 'detached' });
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), 'Notices, one unread');
    await page.keyboard.press('Enter');
    await panel.getByRole('button', { name: 'Mark all as read' }).click();
    await page.getByRole('button', { name: 'Notices', exact: true }).waitFor();
    await page.keyboard.press('Escape');
  });

  await t.test('wants messages in this browser: the worker is there, whatever its push service says', async () => {
    await context.grantPermissions(['notifications'], { origin: base });
    await page.goto(`/o/${org}/account/notices`);
    const here = page.getByRole('switch', { name: 'Show messages in this browser' });
    await here.waitFor();
    passed.push(await axe(page, 'the settings of notices'));
    const started = context.waitForEvent('serviceworker');
    await here.click({ force: true });
    worker = await started;
    assert.equal(worker.url(), `${base}/worker.js`);
    await page.getByRole('alert').first().waitFor(); // no push service here, and the page says so
    assert.equal((await ask('GET', 'notifications/push')).body.items.length, 0);
  });

  await t.test('a message is shown', async () => {
    const devtools = await context.newCDPSession(page);
    const registrationId = await registration(devtools);
    await devtools.send('ServiceWorker.deliverPushMessage', {
      origin: base,
      registrationId,
      data: JSON.stringify({
        title: 'lobby crashed',
        body: 'It is being started again.',
        tag: 'n1',
        link: `/o/${org}/settings/keys`,
      }),
    });
    const shown = await page.waitForFunction(async () => {
      const list = await (await navigator.serviceWorker.getRegistration('/')).getNotifications();
      return list.length > 0 && list.map((n) => ({ title: n.title, body: n.body, tag: n.tag, data: n.data }));
    });
    assert.deepEqual(await shown.jsonValue(), [
      {
        title: 'lobby crashed',
        body: 'It is being started again.',
        tag: 'n1',
        data: { page: `${base}/o/${org}/settings/keys` },
      },
    ]);
    await devtools.detach();
  });

  // A browser lets a worker open and focus windows after a click of a person alone, which no protocol makes. So the
  // click is given to the real worker with the real notification, and it is noted which window it wants.
  const clicked = async () => {
    await worker.evaluate(async () => {
      globalThis.went = [];
      globalThis.clients.openWindow = async (url) => void globalThis.went.push(`open ${url}`);
      globalThis.WindowClient.prototype.focus = async function () {
        globalThis.went.push(`focus ${this.url}`);
      };
      const [one] = await globalThis.registration.getNotifications();
      const click = new globalThis.NotificationEvent('notificationclick', { notification: one });
      globalThis.dispatchEvent(click);
    });
    const deadline = Date.now() + 10_000;
    for (;;) {
      const went = await worker.evaluate(() => globalThis.went);
      if (went.length > 0 || Date.now() > deadline) return went;
      await new Promise((done) => setTimeout(done, 50));
    }
  };

  await t.test('its click opens the page, which is there', async () => {
    const target = `${base}/o/${org}/settings/keys`;
    assert.deepEqual(await clicked(), [`open ${target}`]);
    assert.equal(await worker.evaluate(async () => (await globalThis.registration.getNotifications()).length), 0);
    await page.goto(target);
    await page.getByTestId('key').filter({ hasText: 'robot' }).waitFor();
  });

  await t.test('another click goes to the window that shows the page', async () => {
    await worker.evaluate((page) => globalThis.registration.showNotification('again', { data: { page } }), page.url());
    assert.deepEqual(await clicked(), [`focus ${page.url()}`]);
  });

  await t.test('nothing of the app passes through the worker or is kept by it', async () => {
    await page.reload();
    await page.getByTestId('key').first().waitFor();
    const kept = await page.evaluate(async () => ({
      controlled: navigator.serviceWorker.controller?.scriptURL,
      caches: await caches.keys(),
    }));
    assert.deepEqual(kept, { controlled: `${base}/worker.js`, caches: [] });
  });

  errors.splice(0, errors.length, ...errors.filter((e) => !/push api|push service|Registration failed/i.test(e)));
  assert.deepEqual(errors, [], 'the browser’s console');
  t.diagnostic(
    `T30: a message by the DevTools protocol is shown and leads to its page, axe 0 serious on ${passed.length} pages`,
  );
  await close();
});
