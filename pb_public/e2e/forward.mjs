// Carries connections between a port of chromium.sh's network and a port of ours, through a socket file.
import { writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';

const base = new URL(process.env.E2E_BASE_URL);
const port = Number(base.port || 80);
const file = process.env.E2E_FORWARD;

function carry(listen, to) {
  const server = createServer((from) => {
    const other = connect(to);
    const end = () => {
      from.destroy();
      other.destroy();
    };
    from.on('error', end).on('close', end).pipe(other);
    other.on('error', end).on('close', end).pipe(from);
  });
  server.listen(listen);
  return server;
}

/** The side in our network; it lives as long as the process that runs the tests. */
export const outside = () => carry({ path: file }, { host: base.hostname, port }).unref();

if (process.argv[2] === 'in') {
  // chromium.sh waits for this file: a page that is asked for earlier is refused.
  carry({ host: '127.0.0.1', port }, { path: file }).on('listening', () => writeFileSync(`${file}.ready`, ''));
  const browser = process.ppid;
  setInterval(() => process.ppid === browser || process.exit(), 500); // it ends with the browser
}
