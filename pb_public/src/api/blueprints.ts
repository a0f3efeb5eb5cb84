// Games, as the catalogue and the form show them. The form is checked while it is read, so that the
// wizard meets one shape only, whatever a blueprint leaves out.
import { request } from './client';

export interface Range {
  min: number;
  recommended: number;
}

export interface Blueprint {
  id: string;
  slug: string;
  name: string;
  summary: string;
  categories: string[];
  version: string;
  iconUrl: string;
  resources: { memoryMib: Range; cpuMillicores: Range; diskGib: Range };
}

export interface Variable {
  key: string;
  name: string;
  description: string;
  kind: 'string' | 'int' | 'bool' | 'enum' | 'secret';
  /** "" for a secret. */
  preset: string;
  basic: boolean;
  editable: boolean;
  required: boolean;
  accepted: boolean;
  min?: number;
  max?: number;
  minLength: number;
  /** 0: no limit. */
  maxLength: number;
  pattern: string;
  patternMessage: string;
  options: { value: string; label: string }[];
}

export interface Game extends Blueprint {
  description: string;
  variants: { key: string; name: string; preset: boolean }[];
  variables: Variable[];
  ports: { name: string; protocol: string; count: number }[];
  /** Rising by memory. */
  hints: { memoryMib: number; players: number; text: string }[];
}

type Raw = Record<string, unknown>;

const raw = (value: unknown): Raw => (typeof value === 'object' && value !== null ? (value as Raw) : {});
const list = (value: unknown): Raw[] => (Array.isArray(value) ? value.map(raw) : []);
const text = (value: unknown): string => (typeof value === 'string' ? value : value == null ? '' : String(value));
const number = (value: unknown): number => (Number.isFinite(Number(value)) ? Number(value) : 0);
const optional = (value: unknown): number | undefined => (value == null || value === '' ? undefined : number(value));

function range(value: unknown): Range {
  if (typeof value === 'number') return { min: value, recommended: value };
  const r = raw(value);
  const min = number(r.min ?? r.minimum);
  return { min, recommended: Math.max(number(r.recommended), min) };
}

export function readBlueprint(value: unknown): Blueprint {
  const r = raw(value);
  const res = raw(r.resources);
  const disk = res.disk_gib === undefined ? range(res.disk_mib) : range(res.disk_gib);
  const gib = (n: number) => (res.disk_gib === undefined ? Math.ceil(n / 1024) : n);
  return {
    id: text(r.id),
    slug: text(r.slug || r.id),
    name: text(r.name),
    summary: text(r.summary),
    categories: Array.isArray(r.categories) ? r.categories.map(text) : [],
    version: text(r.version),
    iconUrl: text(r.icon_url),
    resources: {
      memoryMib: range(res.memory_mib),
      cpuMillicores: range(res.cpu_millicores),
      diskGib: { min: gib(disk.min), recommended: gib(disk.recommended) },
    },
  };
}

const kinds = new Set(['string', 'int', 'bool', 'enum', 'secret']);

function readVariable(r: Raw): Variable {
  const rules = raw(r.rules);
  const rule = (name: string) => r[name] ?? rules[name];
  const options = (Array.isArray(r.options) ? r.options : []).map((o: unknown) => {
    const value = typeof o === 'object' ? text(raw(o).value) : text(o);
    return { value, label: text(raw(o).label) || value };
  });
  const kind = r.secret === true ? 'secret' : text(r.type);
  return {
    key: text(r.key),
    name: text(r.name) || text(r.key),
    description: text(r.description),
    kind: (kinds.has(kind) ? kind : options.length > 0 ? 'enum' : 'string') as Variable['kind'],
    preset: text(r.default),
    basic: text(r.group) === '' || text(r.group) === 'basic',
    editable: r.editable !== false,
    required: rule('required') === true,
    accepted: rule('accepted') === true,
    min: optional(rule('min')),
    max: optional(rule('max')),
    minLength: number(rule('min_length')),
    maxLength: number(rule('max_length')),
    pattern: text(rule('regex')),
    patternMessage: text(rule('message')),
    options,
  };
}

function readHint(r: Raw) {
  return { memoryMib: number(r.memory_mib), players: number(r.players), text: text(r.text) };
}

export function readGame(value: unknown): Game {
  const r = raw(value);
  const form = raw(r.form);
  const variants = list(form.variants);
  const preset = text(form.default_variant);
  const hints = list(form.hints).length > 0 ? list(form.hints) : list(raw(form.resources).players);
  return {
    ...readBlueprint({ resources: form.resources, ...r }),
    description: text(r.description ?? form.description),
    variants: variants.map((v) => {
      const key = text(v.key ?? v.id);
      return { key, name: text(v.name) || key, preset: v.default === true || key === preset };
    }),
    variables: list(form.variables).map(readVariable),
    ports: list(form.ports).map((p) => ({
      name: text(p.name),
      protocol: text(p.protocol),
      count: Math.max(number(p.count), 1),
    })),
    hints: hints.map(readHint).sort((a, b) => a.memoryMib - b.memoryMib),
  };
}

export async function listBlueprints(org: string, signal?: AbortSignal): Promise<Blueprint[]> {
  const answer = await request<{ items: unknown[] }>('blueprints', { org, signal });
  return answer.items.map(readBlueprint);
}

export async function getGame(org: string, slug: string, signal?: AbortSignal): Promise<Game> {
  return readGame(await request<unknown>(`blueprints/${encodeURIComponent(slug)}`, { org, signal }));
}
