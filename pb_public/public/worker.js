// Shows the push messages of the panel, and on a click goes to the page of one. It keeps nothing, has no
// session and asks the panel for nothing; what a page loads does not pass through it.
(() => {
  const home = self.location.origin;

  /** A page of this app: what leads elsewhere leads to the start. */
  const pageOf = (link) => {
    try {
      const url = new URL(String(link || '/'), home);
      return url.origin === home ? url.href : `${home}/`;
    } catch {
      return `${home}/`;
    }
  };

  /** What was sent; a browser has to show something also of what cannot be read. */
  const read = (data) => {
    try {
      const told = data.json();
      return told && typeof told === 'object' ? told : {};
    } catch {
      return {};
    }
  };

  const text = (value, most) => (typeof value === 'string' ? value.slice(0, most) : '');

  self.addEventListener('install', () => self.skipWaiting()); // there is nothing that an old one and a new one share
  self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

  self.addEventListener('push', (event) => {
    const told = read(event.data);
    event.waitUntil(
      self.registration.showNotification(text(told.title, 200) || self.location.host, {
        body: text(told.body, 500),
        tag: text(told.tag, 64), // one that comes twice takes the place of the first
        icon: '/favicon.svg',
        data: { page: pageOf(told.link) },
      }),
    );
  });

  self.addEventListener('notificationclick', (event) => {
    event.notification.close();
    const page = pageOf(event.notification.data?.page);
    const go = async () => {
      const open = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
      const there = open.find((one) => one.url === page);
      // A window that shows something else stays as it is: there may be unsaved work in it.
      return there ? there.focus() : self.clients.openWindow(page);
    };
    event.waitUntil(go());
  });

  // The push service has given the browser another address. Pages that are open tell the panel; else the next one does.
  self.addEventListener('pushsubscriptionchange', (event) => {
    const renew = async () => {
      const key = event.oldSubscription?.options?.applicationServerKey;
      if (key && !event.newSubscription) {
        await self.registration.pushManager
          .subscribe({ userVisibleOnly: true, applicationServerKey: key })
          .catch(() => undefined); // a page tries again
      }
      const open = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
      for (const one of open) one.postMessage({ type: 'mamba.push-changed' });
    };
    event.waitUntil(renew());
  });
})();
