// @vitest-environment node
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseSync } from 'vite';
import { expect, it } from 'vitest';
import { en } from './en';

// Components hold no words of their own: each is in en.ts, so that other languages can be added.
const root = join(import.meta.dirname, '..');
const sources = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((f) => /\.tsx?$/.test(f) && !/\.test\.|routes\.gen|testing\.ts|texts\/en\.ts/.test(f))
  .map((f) => ({ name: f, text: readFileSync(join(root, f), 'utf8') }));

// Attributes whose text a person sees or hears.
const spoken = new Set([
  'label',
  'title',
  'placeholder',
  'alt',
  'description',
  'lead',
  'error',
  'aria-label',
  'aria-description',
  'aria-valuetext',
  'aria-roledescription',
]);
const word = /\p{L}{2,}/u;

type Node = { type: string; [key: string]: unknown };

function visit(node: unknown, see: (n: Node) => void): void {
  if (Array.isArray(node)) for (const one of node) visit(one, see);
  else if (typeof node === 'object' && node !== null) {
    if ('type' in node) see(node as Node);
    for (const value of Object.values(node)) if (typeof value === 'object') visit(value, see);
  }
}

/** Words written into JSX: as text, in braces, or in an attribute that is read out. */
function literals(name: string, text: string): string[] {
  const found: string[] = [];
  const string = (n: Node | null | undefined): string | undefined => {
    if (n?.type === 'JSXExpressionContainer') return string(n.expression as Node);
    if (n?.type === 'Literal' && typeof n.value === 'string') return n.value;
    if (n?.type === 'TemplateLiteral')
      return (n.quasis as { value: { cooked: string } }[]).map((q) => q.value.cooked).join(' ');
  };
  visit(parseSync(name, text).program, (n) => {
    if (n.type === 'JSXText' && word.test(String(n.value))) found.push(String(n.value).trim());
    if (n.type === 'JSXElement' || n.type === 'JSXFragment') {
      for (const child of n.children as Node[]) {
        const said = child.type === 'JSXExpressionContainer' ? string(child) : undefined;
        if (said && word.test(said)) found.push(said);
      }
    }
    if (n.type === 'JSXAttribute') {
      const attribute = n.name as { name: unknown };
      const said = string(n.value as Node | null);
      // "door.title" is a key: a component that takes keys asks for them by these names, too
      if (spoken.has(String(attribute.name)) && said && word.test(said) && !keys.has(said))
        found.push(`${attribute.name}="${said}"`);
    }
  });
  return found;
}

function leaves(value: object, path = ''): string[] {
  return Object.entries(value).flatMap(([k, v]) => (typeof v === 'string' ? [path + k] : leaves(v, `${path}${k}.`)));
}
const keys = new Set(leaves(en));

it('finds words in JSX', () => {
  const bad = `const x = <div title="Hello there"><p>Some words</p>{'More words'}{\`and \${n} more\`}<A label={t('a.b')} id="fine" /></div>`;
  expect(literals('bad.tsx', bad)).toHaveLength(4);
});

it('no component holds words of its own', () => {
  const found = sources
    .filter((s) => s.name.endsWith('.tsx'))
    .flatMap((s) => literals(s.name, s.text).map((l) => `${s.name}: ${l}`));
  expect(sources.length).toBeGreaterThan(60);
  expect(found).toEqual([]);
});

// Texts found by a key that is put together: `status.${phase}`.
const composed = [
  'audit.did.',
  'status.',
  'activity.kinds.',
  'server.done.',
  'action.',
  'install.',
  'permission.',
  'roles.group.',
  'audit.kind.',
  'notices.channel.',
  'notices.group.',
  'notices.severity.',
];

it('every text is used', () => {
  const all = sources.map((s) => s.text).join('\n');
  const unused = [...keys].filter((key) => {
    const name = key.replace(/_(one|other)$/, '');
    return !all.includes(`'${name}'`) && !all.includes(`"${name}"`) && !composed.some((c) => name.startsWith(c));
  });
  expect(unused).toEqual([]);
});

it('texts are sentences for people', () => {
  const texts = leaves(en).map(
    (k) => [k, k.split('.').reduce<unknown>((o, p) => (o as Record<string, unknown>)[p], en) as string] as const,
  );
  for (const [key, text] of texts) {
    expect(text, key).not.toMatch(/an error occurred|oops|invalid|please|!$| {2}/i);
    expect(text.trim(), key).toBe(text);
    if (key.endsWith('_one')) expect(keys.has(key.replace(/_one$/, '_other')), key).toBe(true);
  }
});

// What somebody typed is put on a page by React alone, which takes it for text.
it('no component writes markup by itself', () => {
  const writes =
    /dangerouslySetInnerHTML|\.(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function\(/;
  expect(sources.filter((s) => writes.test(s.text)).map((s) => s.name)).toEqual([]);
});
