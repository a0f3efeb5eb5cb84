// Empties dist/ before a build. fallback.html stays: it is checked in, so that `go build` works without Node.
import { readdir, rm } from 'node:fs/promises';

const dist = new URL('../dist/', import.meta.url);
for (const name of await readdir(dist).catch(() => [])) {
  if (name !== 'fallback.html') await rm(new URL(name, dist), { recursive: true });
}
