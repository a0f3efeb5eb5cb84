// Measures what a first visit loads and refuses more than the budget.
// The initial script is every script index.html names or preloads, and all that those import at once.
import { readFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';

const BUDGET_KB = 180; // gzip -9, 1 KB = 1000 bytes
const dist = new URL('../dist/', import.meta.url);
const html = await readFile(new URL('index.html', dist), 'utf8');
const wanted = [...html.matchAll(/(?:src|href)="\/([^"]+\.js)"/g)].map((m) => m[1]);
const seen = new Map();
while (wanted.length > 0) {
  const name = wanted.pop();
  if (seen.has(name)) continue;
  const code = await readFile(new URL(name, dist));
  seen.set(name, gzipSync(code, { level: 9 }).length);
  for (const m of code.toString().matchAll(/(?:from|import)\s*["']\.\/([^"']+\.js)["']/g))
    wanted.push(`assets/${m[1]}`);
}
const total = [...seen.values()].reduce((a, b) => a + b, 0) / 1000;
for (const [name, bytes] of [...seen].sort((a, b) => b[1] - a[1]))
  console.log(`${(bytes / 1000).toFixed(1).padStart(7)} KB  ${name}`);
console.log(`initial script: ${total.toFixed(1)} KB gzip of ${BUDGET_KB}`);
if (total > BUDGET_KB) process.exit(1);
