// The service worker is a file of its own that no page imports: it is run here with a world that is made up.
import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it, vi } from 'vitest';

const source = readFileSync('public/worker.js', 'utf8');
const home = 'https://panel.example';

interface Window_ {
  url: string;
  focus: () => Promise<string>;
  postMessage: (data: unknown) => void;
}

function aWorker() {
  const listeners: Record<string, (event: object) => void> = {};
  const shown: { title: string; options: Record<string, unknown> }[] = [];
  const windows: Window_[] = [];
  const self = {
    location: new URL(`${home}/worker.js`),
    addEventListener: (name: string, fn: (event: object) => void) => {
      listeners[name] = fn;
    },
    skipWaiting: vi.fn(),
    clients: {
      claim: vi.fn(async () => undefined),
      matchAll: vi.fn(async () => windows),
      openWindow: vi.fn(async (url: string) => url),
    },
    registration: {
      showNotification: vi.fn(async (title: string, options: Record<string, unknown>) => {
        shown.push({ title, options });
      }),
      pushManager: { subscribe: vi.fn(async () => ({})) },
    },
  };
  // What it may use is what is handed to it: any other name of a browser's would be undefined.
  new Function('self', 'fetch', 'caches', 'indexedDB', 'localStorage', source)(self);
  const fire = async (name: string, event: object = {}) => {
    const waits: Promise<unknown>[] = [];
    listeners[name]?.({ waitUntil: (p: Promise<unknown>) => waits.push(p), ...event });
    await Promise.all(waits);
    return waits.length;
  };
  const push = (told: unknown) => fire('push', { data: { json: () => told } });
  const aWindow = (url: string) => {
    const one = { url, focus: vi.fn(async () => url), postMessage: vi.fn() };
    windows.push(one);
    return one;
  };
  return { self, listeners, shown, fire, push, aWindow };
}

let worker: ReturnType<typeof aWorker>;
beforeEach(() => {
  worker = aWorker();
});

describe('the service worker', () => {
  it('shows what was sent, under its tag', async () => {
    const waited = await worker.push({
      title: 'lobby crashed',
      body: 'It is started again.',
      tag: 'n1',
      link: '/o/t1/servers/s1',
    });
    expect(waited).toBe(1);
    expect(worker.shown).toEqual([
      {
        title: 'lobby crashed',
        options: {
          body: 'It is started again.',
          tag: 'n1',
          icon: '/favicon.svg',
          data: { page: `${home}/o/t1/servers/s1` },
        },
      },
    ]);
  });

  it.each([
    ['no data', undefined],
    ['no JSON', { json: () => JSON.parse('{') }],
    ['null', { json: () => null }],
    ['no texts', { json: () => ({ title: 5, body: {}, tag: [] }) }],
  ])('shows something of %s, as browsers demand', async (_, data) => {
    await worker.fire('push', { data });
    expect(worker.shown).toHaveLength(1);
    expect(worker.shown[0]).toMatchObject({
      title: 'panel.example',
      options: { body: '', tag: '', data: { page: `${home}/` } },
    });
  });

  it.each([
    'https://evil.example/x',
    '//evil.example/x',
    '/\\evil.example',
    '\\\\evil.example',
    'javascript:alert(1)',
    'data:text/html,x',
    'http://panel.example/x',
    'https://panel.example.evil.example/',
    'https://panel.example@evil.example/',
    'http://[',
  ])('leads nowhere else: %s', async (link) => {
    await worker.push({ title: 'x', link });
    expect(worker.shown[0]?.options.data).toEqual({ page: `${home}/` });
    await worker.fire('notificationclick', { notification: { close: vi.fn(), data: { page: link } } });
    expect(worker.self.clients.openWindow).toHaveBeenCalledExactlyOnceWith(`${home}/`);
  });

  it('cuts what is too long', async () => {
    await worker.push({ title: 'x'.repeat(999), body: 'y'.repeat(9999), tag: 'z'.repeat(999) });
    expect(String(worker.shown[0]?.title)).toHaveLength(200);
    expect(String(worker.shown[0]?.options.body)).toHaveLength(500);
  });

  it('goes to the window that shows the page, and opens one when there is none', async () => {
    const other = worker.aWindow(`${home}/o/t1/servers/s1/files`);
    const close = vi.fn();
    const click = () =>
      worker.fire('notificationclick', { notification: { close, data: { page: `${home}/o/t1/servers/s1` } } });
    await click();
    expect(worker.self.clients.openWindow).toHaveBeenCalledExactlyOnceWith(`${home}/o/t1/servers/s1`);
    expect(other.focus).not.toHaveBeenCalled(); // there may be unsaved work in it
    const there = worker.aWindow(`${home}/o/t1/servers/s1`);
    await click();
    expect(there.focus).toHaveBeenCalledOnce();
    expect(worker.self.clients.openWindow).toHaveBeenCalledOnce();
    expect(close).toHaveBeenCalledTimes(2);
  });

  it('subscribes again with the same key when the push service has changed the address, and says so', async () => {
    const open = worker.aWindow(`${home}/`);
    const key = new ArrayBuffer(65);
    await worker.fire('pushsubscriptionchange', { oldSubscription: { options: { applicationServerKey: key } } });
    const { subscribe } = worker.self.registration.pushManager;
    expect(subscribe).toHaveBeenCalledExactlyOnceWith({ userVisibleOnly: true, applicationServerKey: key });
    expect(open.postMessage).toHaveBeenCalledExactlyOnceWith({ type: 'mamba.push-changed' });
    await worker.fire('pushsubscriptionchange', { newSubscription: {}, oldSubscription: { options: {} } });
    await worker.fire('pushsubscriptionchange', { oldSubscription: null });
    expect(subscribe).toHaveBeenCalledOnce();
    subscribe.mockRejectedValueOnce(new Error('no push service'));
    await worker.fire('pushsubscriptionchange', { oldSubscription: { options: { applicationServerKey: key } } });
    expect(open.postMessage).toHaveBeenCalledTimes(4);
  });

  it('takes over at once, and lets every request of a page pass', async () => {
    await worker.fire('install');
    await worker.fire('activate');
    expect(worker.self.skipWaiting).toHaveBeenCalledOnce();
    expect(worker.self.clients.claim).toHaveBeenCalledOnce();
    expect(Object.keys(worker.listeners).sort()).toEqual([
      'activate',
      'install',
      'notificationclick',
      'push',
      'pushsubscriptionchange',
    ]);
    expect(source).not.toMatch(/\b(?:fetch|caches|indexedDB|importScripts)\b/);
  });
});
