// Writes name.br and name.gz beside each text file of dist/, for embed.go to serve as they are.
// Files that do not shrink by a tenth stay alone.
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';

const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const text = new Set(['.js', '.css', '.html', '.svg', '.json', '.txt']);

for (const entry of await readdir(dist, { recursive: true, withFileTypes: true })) {
  const file = join(entry.parentPath, entry.name);
  if (!entry.isFile() || !text.has(extname(file)) || entry.name === 'fallback.html') continue;
  const plain = await readFile(file);
  const br = await promisify(brotliCompress)(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  const gz = await promisify(gzip)(plain, { level: 9 });
  if (br.length < plain.length * 0.9) await writeFile(`${file}.br`, br);
  if (gz.length < plain.length * 0.9) await writeFile(`${file}.gz`, gz);
}
