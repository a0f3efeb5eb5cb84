import { MantineProvider } from '@mantine/core';
import { Notifications } from '@mantine/notifications';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { cleanup, configure, fireEvent, render, screen, waitFor, within } from '@testing-library/react';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { keepPush } from '@/actions/push';
import { signOut } from '@/actions/signOut';
import { pb } from '@/api/client';
import type { PushBrowser } from '@/api/views';
import { Answer, aPanel } from '@/page.testing';
import { hashOf, kept } from '@/stores/push';
import { aToken, aUser } from '@/testing';
import { PushCard } from './PushCard';
import { useKeptPush } from './useKeptPush';

configure({ asyncUtilTimeout: 15_000 }); // the first render takes seconds on a busy machine

const KEY = 'BEl62iUYgUivxIkv69yViEuiBIa-Ib9-SkvMeAtA3LFgDzkrxZJjSgSnfckjBJuBkr3qBUYIHBQFLXYp5Nksh8U';
const OTHER = `BA${KEY.slice(2)}`;
const CHROME = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36';
const PHONE = 'Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0';
const bytes = (key: string) =>
  Uint8Array.from(atob(key.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0)).buffer;

/** A browser that can be pushed to, with what it holds. */
function aBrowser(permission: NotificationPermission = 'default', answer: NotificationPermission = 'granted') {
  let has: { endpoint: string; options: { applicationServerKey: ArrayBuffer }; toJSON: () => object } | null = null;
  let made = 0;
  const listeners: ((event: object) => void)[] = [];
  const subscription = (key: ArrayBuffer) => {
    const endpoint = `https://push.example/${++made}`;
    return {
      endpoint,
      options: { applicationServerKey: key },
      toJSON: () => ({ endpoint, expirationTime: null, keys: { p256dh: 'p', auth: 'a' } }),
      unsubscribe: async () => {
        has = null;
        return true;
      },
    };
  };
  const pushManager = {
    getSubscription: async () => has,
    subscribe: vi.fn(async (o: { applicationServerKey: Uint8Array<ArrayBuffer> }) => {
      has = subscription(o.applicationServerKey.slice().buffer);
      return has;
    }),
  };
  const worker = {
    register: vi.fn(async () => undefined),
    getRegistration: async () => ({ pushManager }),
    ready: Promise.resolve({ pushManager }),
    addEventListener: (_: string, fn: (event: object) => void) => listeners.push(fn),
    removeEventListener: () => undefined,
  };
  const notification = {
    permission,
    requestPermission: vi.fn(async () => {
      notification.permission = answer;
      return answer;
    }),
  };
  vi.stubGlobal('isSecureContext', true);
  vi.stubGlobal('PushManager', class {});
  vi.stubGlobal('Notification', notification);
  Object.defineProperty(navigator, 'serviceWorker', { value: worker, configurable: true });
  return {
    worker,
    pushManager,
    notification,
    endpoint: () => has?.endpoint ?? null,
    hash: async () => (has ? hashOf(has.endpoint) : ''),
    /** The push service gives it another address, or none. */
    rotate: (key: string | null) => {
      has = key ? subscription(bytes(key)) : null;
    },
    tell: (data: object) => {
      for (const fn of listeners) fn({ data });
    },
  };
}

const row = (id: string, differs: Partial<PushBrowser> = {}): PushBrowser => ({
  id,
  device: CHROME,
  endpoint_hash: `hash-of-${id}`,
  created: '2026-11-27T10:00:00Z',
  used_at: null,
  ...differs,
});

function thePanel(items: PushBrowser[] = [], key = KEY) {
  const panel = aPanel({
    'GET account': { id: aUser.id, email: aUser.email, name: aUser.name, verified: true },
    'GET notifications/push': { key, items },
    'POST notifications/push': row('new'),
  });
  return {
    ...panel,
    list: items,
    lists: (next: PushBrowser[]) => (panel.routes['GET notifications/push'] = { key, items: next }),
  };
}

let client: QueryClient;
beforeEach(() => {
  client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  pb.authStore.save(aToken(), aUser as never);
});
afterEach(() => {
  cleanup();
  Reflect.deleteProperty(navigator, 'serviceWorker');
});

function Kept() {
  useKeptPush(aUser.id);
  return null;
}

function show(what = <PushCard />) {
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={client}>
        <Notifications />
        {what}
      </QueryClientProvider>
    </MantineProvider>,
  );
}
const theSwitch = async () =>
  (await screen.findByRole('switch', { name: 'Show messages in this browser' })) as HTMLInputElement;

/** Switched on for Ana, as it was left by an earlier visit. */
async function isOn() {
  const browser = aBrowser('granted');
  browser.rotate(KEY);
  const hash = await browser.hash();
  localStorage.setItem('mamba.push', JSON.stringify({ account: aUser.id, hash }));
  return { browser, hash };
}

describe('PushCard', () => {
  it('says so when the browser cannot', async () => {
    thePanel();
    show();
    await screen.findByText('This browser cannot show messages');
    expect(screen.queryByRole('switch')).toBeNull();
  });

  it('says how to allow what was blocked', async () => {
    aBrowser('denied');
    thePanel([row('b1')]);
    show();
    await screen.findByText('You have blocked messages of this site');
    expect(screen.queryByRole('switch')).toBeNull();
    expect(screen.getAllByTestId('browser')).toHaveLength(1); // others can be removed all the same
  });

  it('asks, subscribes with the key of the panel, and tells it', async () => {
    const browser = aBrowser();
    const panel = thePanel();
    show();
    const box = await theSwitch();
    expect(box.checked).toBe(false);
    expect(browser.notification.requestPermission).not.toHaveBeenCalled(); // before somebody wants it
    expect(browser.worker.register).not.toHaveBeenCalled();
    fireEvent.click(box);
    await waitFor(() => expect(panel.wrote()).toEqual(['POST notifications/push']));
    expect(browser.worker.register).toHaveBeenCalledWith('/worker.js', { scope: '/', updateViaCache: 'none' });
    const asked = browser.pushManager.subscribe.mock.calls[0]?.[0];
    expect(asked).toMatchObject({ userVisibleOnly: true });
    expect(asked?.applicationServerKey).toEqual(new Uint8Array(bytes(KEY)));
    expect(panel.asked.find((one) => one.method === 'POST')?.body).toEqual({
      endpoint: 'https://push.example/1',
      keys: { p256dh: 'p', auth: 'a' },
    });
    panel.lists([row('new', { endpoint_hash: await browser.hash() })]);
    await client.invalidateQueries({ queryKey: ['push'] });
    await waitFor(() => expect(box.checked).toBe(true));
    expect(screen.getByTestId('browser').textContent).toContain('Chrome on LinuxThis browser · Nothing was sent yet');
  });

  it('stays off, and tells the panel nothing, when the person says no', async () => {
    aBrowser('default', 'denied');
    const panel = thePanel();
    show();
    fireEvent.click(await theSwitch());
    await screen.findByText('You have blocked messages of this site');
    expect(panel.wrote()).toEqual([]);
  });

  it('says what went wrong when the push service cannot be reached', async () => {
    const browser = aBrowser('granted');
    browser.pushManager.subscribe.mockRejectedValueOnce(new DOMException('Registration failed', 'AbortError'));
    const panel = thePanel();
    show();
    const box = await theSwitch();
    fireEvent.click(box);
    await screen.findByRole('alert');
    expect(box.checked).toBe(false);
    expect(panel.wrote()).toEqual([]);
    expect(kept()).toBeNull();
  });

  it('is switched off here and at the panel', async () => {
    const { browser, hash } = await isOn();
    const panel = thePanel([row('b1', { endpoint_hash: hash })]);
    panel.routes['DELETE notifications/push/b1'] = new Answer(204);
    show();
    const box = await theSwitch();
    await waitFor(() => expect(box.checked).toBe(true));
    fireEvent.click(box);
    await waitFor(() => expect(panel.wrote()).toEqual(['DELETE notifications/push/b1']));
    await waitFor(() => expect(browser.endpoint()).toBeNull());
    expect(kept()).toBeNull();
  });

  it('removes another browser, and tries one', async () => {
    const { browser, hash } = await isOn();
    const phone = row('b2', { device: PHONE, used_at: '2026-11-27T10:00:00Z' });
    const panel = thePanel([row('b1', { endpoint_hash: hash }), phone]);
    panel.routes['DELETE notifications/push/b2'] = new Answer(404, { code: 'subscription_not_found', message: 'No.' });
    panel.routes['POST notifications/push/b2/test'] = { sent: true };
    show();
    const rows = await screen.findAllByTestId('browser');
    const other = within(rows[1] as HTMLElement);
    expect(rows[1]?.textContent).toContain('Firefox on AndroidLast message');
    fireEvent.click(other.getByRole('button', { name: 'Send a test to Firefox on Android' }));
    await waitFor(() => expect(panel.wrote()).toEqual(['POST notifications/push/b2/test']));
    panel.lists([row('b1', { endpoint_hash: hash })]);
    fireEvent.click(other.getByRole('button', { name: 'Remove Firefox on Android' })); // it has gone meanwhile
    await waitFor(() => expect(screen.getAllByTestId('browser')).toHaveLength(1));
    expect(browser.endpoint()).not.toBeNull();
  });

  it('is off for another account at the same browser', async () => {
    const { hash } = await isOn();
    localStorage.setItem('mamba.push', JSON.stringify({ account: 'somebody0000001', hash }));
    thePanel();
    show();
    expect((await theSwitch()).checked).toBe(false);
  });

  it('says that the list could not be loaded', async () => {
    aBrowser();
    const panel = thePanel();
    panel.routes['GET notifications/push'] = new Answer(400, { code: 'invalid_input', message: 'Not so.' });
    show();
    const again = await screen.findByRole('button', { name: 'Try again' });
    panel.lists([]);
    fireEvent.click(again);
    await theSwitch();
  });
});

describe('keeping it on', () => {
  it('does nothing where it was never switched on, or for somebody else', async () => {
    aBrowser('granted');
    const panel = thePanel();
    await keepPush(client, aUser.id);
    localStorage.setItem('mamba.push', JSON.stringify({ account: 'somebody0000001', hash: 'x' }));
    await keepPush(client, aUser.id);
    expect(panel.asked).toEqual([]);
  });

  it('leaves alone what is good', async () => {
    const { hash } = await isOn();
    const panel = thePanel([row('b1', { endpoint_hash: hash })]);
    await keepPush(client, aUser.id);
    expect(panel.wrote()).toEqual([]);
  });

  it('subscribes again when the panel has another key, and ends the old one', async () => {
    const { browser, hash } = await isOn();
    const panel = thePanel([row('b1', { endpoint_hash: hash })], OTHER);
    panel.routes['DELETE notifications/push/b1'] = new Answer(204);
    await keepPush(client, aUser.id);
    expect(panel.wrote()).toEqual(['POST notifications/push', 'DELETE notifications/push/b1']);
    expect(browser.pushManager.subscribe.mock.calls[0]?.[0].applicationServerKey).toEqual(new Uint8Array(bytes(OTHER)));
    expect(kept()).toEqual({ account: aUser.id, hash: await browser.hash() });
  });

  it.each([
    ['given it another address', KEY],
    ['taken its address', null],
  ])('tells the panel when the push service has %s', async (_, key) => {
    const { browser, hash } = await isOn();
    const panel = thePanel([row('b1', { endpoint_hash: hash })]);
    panel.routes['DELETE notifications/push/b1'] = new Answer(204);
    show(<Kept />);
    await waitFor(() => expect(panel.asked).toHaveLength(1)); // all is well
    browser.rotate(key);
    browser.tell({ type: 'something else' });
    browser.tell({ type: 'mamba.push-changed' });
    await waitFor(() => expect(panel.wrote()).toEqual(['POST notifications/push', 'DELETE notifications/push/b1']));
    expect(browser.endpoint()).not.toBeNull();
  });

  it('does not put back what was removed elsewhere', async () => {
    const { browser } = await isOn();
    const panel = thePanel([]);
    await keepPush(client, aUser.id);
    expect(panel.wrote()).toEqual([]);
    expect(browser.endpoint()).toBeNull();
    expect(kept()).toBeNull();
  });

  it('ends with the session', async () => {
    const { browser } = await isOn();
    const panel = thePanel([]);
    panel.routes['DELETE account/sessions/current'] = new Answer(204);
    await signOut(client);
    await waitFor(() => expect(browser.endpoint()).toBeNull());
    expect(kept()).toBeNull();
    expect(panel.wrote()).toEqual(['DELETE account/sessions/current']);
  });
});
