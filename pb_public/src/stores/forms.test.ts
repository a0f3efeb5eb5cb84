import { afterEach, describe, expect, it } from 'vitest';
import { type Game, readBlueprint, readGame, type Variable } from '@/api/blueprints';
import { ApiError } from '@/api/error';
import {
  changedVariables,
  draftOf,
  dropDraft,
  faultsOf,
  keepDraft,
  keptDraft,
  placeFaults,
  toNewServer,
} from './draft';
import { rank } from './rank';
import {
  checkEmail,
  checkName,
  checkPassword,
  checkPersonName,
  checkSlug,
  checkVariable,
  placeError,
  slugOf,
} from './rules';
import { safeNext } from './session';
import { clamp, hintFor, left, recommended, sliders, stops } from './sizing';

// What the catalogue answers (blueprints.Form), cut down.
const answer = {
  id: 'game00000000001',
  slug: 'minecraft-paper',
  name: 'Minecraft: Paper',
  summary: 'Fast.',
  categories: ['survival'],
  version: '1.0.0',
  icon_url: '/icon',
  resources: {
    memory_mib: { minimum: 1024, recommended: 2048 },
    cpu_millicores: { minimum: 500, recommended: 1000 },
    disk_mib: { minimum: 1000, recommended: 5000 },
  },
  form: {
    variants: [
      { id: 'java17', name: 'Java 17' },
      { id: 'java21', name: 'Java 21' },
    ],
    default_variant: 'java21',
    variables: [
      {
        key: 'EULA',
        name: 'I accept the EULA',
        type: 'bool',
        default: 'false',
        group: 'basic',
        editable: true,
        required: true,
        accepted: true,
      },
      {
        key: 'SLOTS',
        name: 'Player slots',
        type: 'int',
        default: '10',
        group: 'basic',
        editable: true,
        required: true,
        min: 1,
        max: 1000,
      },
      {
        key: 'PASSWORD',
        name: 'Password',
        type: 'secret',
        default: '',
        group: 'advanced',
        editable: true,
        min_length: 8,
      },
      {
        key: 'BUILD',
        name: 'Build',
        type: 'string',
        default: 'latest',
        group: 'advanced',
        editable: false,
        regex: '[a-z]+',
      },
    ],
    ports: [{ name: 'game', protocol: 'tcp', count: 1 }],
    resources: {
      players: [
        { players: 30, memory_mib: 4096 },
        { players: 12, memory_mib: 2048 },
      ],
    },
  },
};
const game: Game = readGame(answer);
const variable = (differs: Partial<Variable>): Variable => ({
  key: 'K',
  name: 'Thing',
  description: '',
  kind: 'string',
  preset: '',
  basic: true,
  editable: true,
  required: false,
  accepted: false,
  minLength: 0,
  maxLength: 0,
  pattern: '',
  patternMessage: '',
  options: [],
  ...differs,
});

describe('readGame', () => {
  it('reads what the catalogue answers', () => {
    expect(game.resources).toEqual({
      memoryMib: { min: 1024, recommended: 2048 },
      cpuMillicores: { min: 500, recommended: 1000 },
      diskGib: { min: 1, recommended: 5 },
    });
    expect(game.variants.find((v) => v.preset)?.key).toBe('java21');
    expect(game.hints.map((h) => h.players)).toEqual([12, 30]);
    expect(game.variables[2]).toMatchObject({ kind: 'secret', preset: '', minLength: 8, basic: false });
  });
  it('meets a blueprint that leaves nearly everything out', () => {
    const bare = readGame({ id: 'x', name: 'X' });
    expect(bare).toMatchObject({ slug: 'x', variables: [], variants: [], hints: [], ports: [] });
    expect(readBlueprint(null).resources.memoryMib).toEqual({ min: 0, recommended: 0 });
    expect(readGame({ form: { variables: [{ key: 'A', type: 'odd', options: ['x'] }] } }).variables[0]).toMatchObject({
      kind: 'enum',
      name: 'A',
      options: [{ value: 'x', label: 'x' }],
    });
  });
});

describe('checkVariable', () => {
  it.each<[string, Partial<Variable>, string, string]>([
    ['an empty value that may be empty', {}, '', ''],
    ['an empty value that may not', { required: true }, '', 'Thing is required.'],
    [
      'a box that has to be ticked',
      { kind: 'bool', accepted: true, required: true },
      'false',
      'Thing has to be accepted.',
    ],
    ['a ticked one', { kind: 'bool', accepted: true }, 'true', ''],
    ['a bool of another word', { kind: 'bool' }, 'yes', 'Pick one of the choices for Thing.'],
    ['a whole number', { kind: 'int', min: 1, max: 9 }, '9', ''],
    ['a number with a leading zero, as Go refuses it', { kind: 'int' }, '07', 'Thing must be a whole number.'],
    ['a fraction', { kind: 'int' }, '1.5', 'Thing must be a whole number.'],
    ['a number outside of both', { kind: 'int', min: 1, max: 9 }, '10', 'Thing must be between 1 and 9.'],
    ['a number below the least', { kind: 'int', min: 5 }, '-4', 'Thing must be at least 5.'],
    ['a number above the most', { kind: 'int', max: 5 }, '6', 'Thing must be at most 5.'],
    ['a choice', { kind: 'enum', options: [{ value: 'a', label: 'A' }] }, 'a', ''],
    ['no choice', { kind: 'enum', options: [{ value: 'a', label: 'A' }] }, 'b', 'Pick one of the choices for Thing.'],
    ['a short secret', { kind: 'secret', minLength: 8 }, 'short', 'Thing must have at least 8 characters.'],
    ['a long text, counted in characters and not in bytes', { maxLength: 3 }, 'äöü', ''],
    ['a too long text', { maxLength: 3 }, 'abcd', 'Thing must have at most 3 characters.'],
    ['a text of the wrong form', { pattern: '[a-z]+' }, 'a1', 'Thing has a form that the game does not accept.'],
    [
      'the author’s own words for it',
      { pattern: '[a-z]+', patternMessage: 'letters only' },
      '1',
      'Thing: letters only',
    ],
    ['a rule that only RE2 knows is left to the panel', { pattern: '(?i)\\pN+' }, 'x', ''],
    ['a line break', {}, 'a\nb', 'Thing must be one line without invisible characters.'],
  ])('%s', (_, differs, value, said) => expect(checkVariable(variable(differs), value)).toBe(said));
});

describe('the other rules', () => {
  it('names, addresses and passwords', () => {
    expect(checkName('  ')).not.toBe('');
    expect(checkName('x'.repeat(61))).not.toBe('');
    expect(checkName('Friday night')).toBe('');
    expect(checkPersonName(' ')).toBe('Tell us your name.');
    expect(checkPersonName('x'.repeat(61))).toBe(checkName('x'.repeat(61)));
    expect(checkPersonName('Ana')).toBe('');
    expect(checkEmail('ana@example.org')).toBe('');
    expect(checkEmail('ana')).not.toBe('');
    expect(checkPassword('1234567')).not.toBe('');
    expect(checkPassword('12345678')).toBe('');
    expect(checkPassword('🦉🦉🦉🦉')).toContain('At least 8'); // as the panel counts
    expect(checkPassword('p'.repeat(72))).toBe('');
    expect(checkPassword('p'.repeat(73))).toContain('At most 72');
    expect(checkPassword('🦉'.repeat(19))).toContain('At most 72');
    expect(checkSlug('night-owls')).toBe('');
    for (const bad of ['', '-a', 'a-', 'A', 'a b', 'x'.repeat(41)]) expect(checkSlug(bad)).not.toBe('');
  });
  it.each([
    ['Ana’s Crew!', 'anas-crew'],
    ['Zoë & Müller', 'zoe-muller'],
    ['夜', ''],
    [`${'long '.repeat(20)}`, 'long-long-long-long-long-long-long-long'],
  ])('a slug of %s', (name, slug) => expect(slugOf(name)).toBe(slug));
  it('goes back only to pages of this app', () => {
    expect(safeNext('/o/owls/servers?q=1')).toBe('/o/owls/servers?q=1');
    for (const bad of ['//evil.example', '/\\evil.example', 'https://evil.example', 'javascript:x', undefined, 7])
      expect(safeNext(bad)).toBe('/');
  });
});

describe('a new server', () => {
  const limits = { memory_mib: 2048, cpu_millicores: 1000, disk_gib: 5 };
  it('starts as the game comes, and says what is still missing', () => {
    const draft = draftOf(game, limits);
    expect(draft).toMatchObject({
      name: 'Minecraft: Paper',
      variant: 'java21',
      node: '',
      variables: { SLOTS: '10', EULA: 'false' },
    });
    expect(faultsOf(draft, game)).toMatchObject({
      any: true,
      name: '',
      variables: { EULA: 'I accept the EULA has to be accepted.' },
    });
    expect(faultsOf({ ...draft, variables: { ...draft.variables, EULA: 'true' } }, game).any).toBe(false);
    expect(faultsOf({ ...draft, name: '' }, game).name).not.toBe('');
  });
  it('sends only what differs, and never what is the host’s to set', () => {
    const draft = draftOf(game, limits);
    const sent = toNewServer(
      { ...draft, name: ' Owls ', variables: { ...draft.variables, EULA: 'true', BUILD: 'mine' } },
      game,
    );
    expect(sent).toEqual({
      name: 'Owls',
      blueprint: 'minecraft-paper',
      variant: 'java21',
      limits,
      variables: { EULA: 'true' },
      start: true,
    });
  });
  it.each([
    ['name', 'name', 'name'],
    ['limits.memory_mib', 'limits', 'memory_mib'],
    ['disk_gib', 'limits', 'disk_gib'],
    ['variables.SLOTS', 'variables', 'SLOTS'],
    ['SLOTS', 'variables', 'SLOTS'],
    ['node', 'other', 'node'],
  ])('puts an error of the panel at %s', (field, group, key) =>
    expect(placeError(field, game.variables)).toEqual({ group, key }),
  );
  it('collects the panel’s errors by field', () => {
    const fields = {
      'variables.SLOTS': { code: '', message: 'too many' },
      'limits.memory_mib': { code: '', message: 'too much' },
      node: { code: '', message: 'full' },
    };
    expect(placeFaults(new ApiError(400, 'invalid_input', '', fields), game)).toEqual({
      any: true,
      name: '',
      limits: { memory_mib: 'too much' },
      variables: { SLOTS: 'too many' },
      other: 'full',
    });
    expect(placeFaults(new ApiError(500, 'internal', ''), game).any).toBe(false);
  });
});

it('the last look says what was set otherwise than the game comes, and covers secrets', () => {
  const draft = draftOf(game, { memory_mib: 1, cpu_millicores: 1, disk_gib: 1 });
  expect(changedVariables(draft, game)).toEqual([]);
  draft.variables = { ...draft.variables, EULA: 'true', SLOTS: '', PASSWORD: 'a secret one' };
  expect(changedVariables(draft, game)).toEqual([
    { name: 'I accept the EULA', value: 'Yes' },
    { name: 'Player slots', value: 'Empty' },
    { name: 'Password', value: '••••••••' },
  ]);
});

describe('a form that was left', () => {
  const fresh = () => draftOf(game, { memory_mib: 1024, cpu_millicores: 500, disk_gib: 1 });
  afterEach(() => sessionStorage.clear());
  it('is as it was in this tab, but for its secrets', () => {
    keepDraft('owls', game, {
      ...fresh(),
      name: 'Mine',
      variant: 'java17',
      variables: { EULA: 'true', SLOTS: '12', PASSWORD: 'a secret one' },
    });
    expect(JSON.stringify(sessionStorage)).not.toContain('a secret one');
    const back = keptDraft('owls', game, fresh());
    expect(back).toMatchObject({ name: 'Mine', variant: 'java17', variables: { SLOTS: '12', PASSWORD: '' } });
    expect(keptDraft('others', game, fresh())).toEqual(fresh());
    dropDraft('owls', game);
    expect(keptDraft('owls', game, fresh())).toEqual(fresh());
  });
  it('gives way to a game that has changed, and to nonsense', () => {
    keepDraft('owls', game, { ...fresh(), variant: 'java8', variables: { GONE: 'x' } });
    expect(keptDraft('owls', game, fresh())).toEqual(fresh());
    sessionStorage.setItem('mamba.draft.owls.minecraft-paper', '{');
    expect(keptDraft('owls', game, fresh())).toEqual(fresh());
  });
});

describe('sizing', () => {
  const node = (memory: number) => ({
    id: 'n',
    name: 'n',
    location: '',
    fits: true,
    reason: null,
    free: { memory_mib: memory, cpu_millicores: 4000, disk_mib: 40_960 },
  });
  const quota = { servers: 5, memory_mib: 8192, cpu_millicores: 0, disk_mib: 102_400 };
  const used = { servers: 5, memory_mib: 1024, cpu_millicores: 900, disk_mib: 0 };
  it('knows what is left of a quota, and that 0 is none', () => {
    expect(left(quota, used)).toEqual({
      servers: 0,
      memory_mib: 7168,
      cpu_millicores: Number.POSITIVE_INFINITY,
      disk_mib: 102_400,
    });
    expect(left({ ...quota, memory_mib: 512 }, used).memory_mib).toBe(0);
  });
  it('goes from what the game needs to what quota and roomiest node allow', () => {
    const s = sliders(game, left(quota, used), [node(2000), node(6000)]);
    expect(s.memory_mib).toEqual({ min: 1024, max: 5888, step: 256, recommended: 2048 });
    expect(s.cpu_millicores.max).toBe(4000);
    expect(s.disk_gib).toMatchObject({ min: 1, max: 40, recommended: 5 });
    expect(recommended(s)).toEqual({ memory_mib: 2048, cpu_millicores: 1000, disk_gib: 5 });
  });
  it('never offers less than the game needs', () => {
    const s = sliders(game, left({ ...quota, memory_mib: 1025 }, used), []);
    expect(s.memory_mib).toMatchObject({ min: 1024, max: 1024, recommended: 1024 });
    expect(clamp({ memory_mib: 9999, cpu_millicores: 1, disk_gib: 3 }, s)).toEqual({
      memory_mib: 1024,
      cpu_millicores: 500,
      disk_gib: 3,
    });
  });
  it('sets small games finely', () => {
    const small = readGame({
      ...answer,
      resources: { ...answer.resources, memory_mib: { minimum: 32, recommended: 64 } },
    });
    expect(sliders(small, left(quota, used), []).memory_mib).toMatchObject({ min: 64, step: 64, recommended: 64 });
  });
  it('stops more coarsely the larger it gets, and at everything that matters', () => {
    const range = { min: 64, max: 18_800, step: 64, recommended: 1000 };
    const all = stops(range, 150);
    expect(all.slice(0, 6)).toEqual([64, 128, 150, 192, 256, 320]);
    for (const one of [64, 1000, 150, 18_800, 1024, 2048, 4096, 8192, 16_384]) expect(all).toContain(one);
    expect(all.length).toBeLessThan(45);
    expect(all).toEqual([...all].sort((a, b) => a - b));
    expect(stops({ min: 1024, max: 1024, step: 256, recommended: 1024 }, 1024)).toEqual([1024]);
  });
  it('says what a size is good for', () => {
    expect(hintFor(game, 1024)).toBeUndefined();
    expect(hintFor(game, 3000)?.players).toBe(12);
    expect(hintFor(game, 4096)?.players).toBe(30);
  });
});

it('rank finds every word, the beginning first', () => {
  const all = ['Minecraft: Paper', 'Paper mill', 'Valheim'];
  expect(rank(all, 'paper', String)).toEqual(['Paper mill', 'Minecraft: Paper']);
  expect(rank(all, 'PAPER mine', String)).toEqual(['Minecraft: Paper']);
  expect(rank(all, ' ', String)).toBe(all);
  expect(rank(all, 'rust', String)).toEqual([]);
});
