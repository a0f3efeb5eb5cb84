import { describe, expect, it } from 'vitest';
import { type Phase, type Progress, phases } from '@/api/views';
import { aServer } from '@/testing';
import { ago, clock, cores, gib, mib, span } from '@/ui/format';
import { activityText, actorText } from './activity';
import { permissionsOf } from './permissions';
import { installOutcome, installSteps, statusSentence, statusWord, takesCommands, toneOf } from './phase';

const now = Date.parse('2026-11-22T12:00:00Z');

describe('status', () => {
  it.each<[string, Parameters<typeof aServer>[0], string]>([
    ['running', { last_start_at: '2026-11-22T10:00:00Z' }, 'Running for 2 h'],
    ['running since when nobody knows', {}, 'Running'],
    ['off', { status: 'STOPPED', last_exit_at: '2026-11-22 11:57:00.000Z' }, 'Off since 3 minutes ago'],
    ['off, never started', { status: 'STOPPED' }, 'Off'],
    [
      'installing',
      { status: 'INSTALLING', progress: { step: 'pull', percent: 3, message: '' } },
      'Installing · Fetch the game',
    ],
    ['asleep', { status: 'HIBERNATED' }, 'Asleep, wakes when someone joins'],
    ['suspended wins over off', { status: 'STOPPED', suspended: true }, 'Suspended · the data is kept'],
    ['being stopped although suspended', { status: 'STOPPING', suspended: true }, 'Stopping'],
  ])('%s', (_, differs, said) => expect(statusSentence(aServer(differs), now)).toBe(said));
  it('has a word and a tone for every phase, and for one of a newer panel', () => {
    for (const status of [...phases, 'HIBERNATED', 'TRANSFERRING', 'RESTORING', 'DELETING', 'DELETED'] as Phase[]) {
      expect(statusWord(aServer({ status }))).not.toBe(status);
      expect(toneOf(aServer({ status }))).toMatch(/^(running|working|attention|broken|asleep|off)$/);
    }
    expect(statusWord(aServer({ status: 'NEWER' as Phase }))).toBe('NEWER');
    expect(toneOf(aServer({ status: 'NEWER' as Phase }))).toBe('off');
  });
  it('takes commands only while there is a process', () => {
    expect(phases.filter((status) => takesCommands({ status }))).toEqual(['RUNNING', 'STARTING', 'STOPPING']);
  });
});

describe('the install story', () => {
  const at = (status: Phase, step: string, install_status = 'RUNNING', percent = 0) => {
    const progress: Progress | null = step ? { step, percent, message: '' } : null;
    return installSteps({ status, install_status, progress }).map((s) => s.state);
  };
  it.each<[string, string[], string[]]>([
    ['right after the click', at('INSTALLING', '', 'PENDING'), ['now', 'todo', 'todo', 'todo', 'todo']],
    ['fetching', at('INSTALLING', 'pull'), ['done', 'now', 'todo', 'todo', 'todo']],
    ['the script', at('INSTALLING', 'install'), ['done', 'done', 'now', 'todo', 'todo']],
    ['starting', at('STARTING', 'start', 'DONE'), ['done', 'done', 'done', 'now', 'todo']],
    [
      'fetching the image of the game itself, after the install',
      at('STARTING', 'pull', 'DONE'),
      ['done', 'done', 'done', 'done', 'now'],
    ],
    ['waiting for players', at('STARTING', 'ready', 'DONE'), ['done', 'done', 'done', 'done', 'now']],
    ['ready', at('RUNNING', '', 'DONE'), ['done', 'done', 'done', 'done', 'done']],
    ['the script failed', at('INSTALL_FAILED', '', 'FAILED'), ['done', 'done', 'failed', 'todo', 'todo']],
    ['no image', at('INSTALL_FAILED', 'pull', 'FAILED'), ['done', 'failed', 'todo', 'todo', 'todo']],
    ['it never became ready', at('FAILED', '', 'DONE'), ['done', 'done', 'done', 'done', 'failed']],
    ['installed and left off', at('STOPPED', '', 'DONE'), ['done', 'done', 'done', 'todo', 'todo']],
  ])('%s', (_, states, wanted) => expect(states).toEqual(wanted));
  it('shows how far the present step is, and no other', () => {
    const steps = installSteps({
      status: 'INSTALLING',
      install_status: 'RUNNING',
      progress: { step: 'pull', percent: 40, message: 'layers' },
    });
    expect(steps.map((s) => s.percent)).toEqual([0, 40, 0, 0, 0]);
    expect(steps[1]?.message).toBe('layers');
  });
  it('follows the job while the server says nothing', () => {
    const job = {
      id: 'j',
      kind: 'x',
      state: 'running',
      subject: 's',
      error: null,
      rev: 1,
      progress: { step: 'install', percent: 0, message: '' },
    } as const;
    expect(installSteps({ status: 'INSTALLING', install_status: 'RUNNING', progress: null }, job)[2]?.state).toBe(
      'now',
    );
    expect(installOutcome(aServer({ status: 'STOPPED' }), job)).toBe('going');
    expect(installOutcome(aServer({ status: 'STOPPED' }), { ...job, state: 'dead' })).toBe('failed');
    expect(installOutcome(aServer({ status: 'STOPPED' }))).toBe('stopped');
    expect(installOutcome(aServer({ status: 'FAILED' }))).toBe('failed');
  });
});

describe('permissions', () => {
  it('shows what is possible now and allowed, and nothing before the panel has answered', () => {
    const may = permissionsOf({
      permissions: ['server.stop', 'console.read'],
      quota: null,
      tenant: { status: 'ACTIVE' },
    });
    expect(may.actions(aServer())).toEqual(['stop']);
    expect(may.actions(aServer({ actions: null }))).toEqual([]);
    expect(may.can('console.read')).toBe(true);
    expect(may.can('server.delete')).toBe(false);
    expect(permissionsOf(undefined).can('server.read')).toBe(false);
  });
});

describe('activity', () => {
  it.each([
    ['server.create', {}, 'Created the server'],
    ['server.stop', {}, 'Stopped the server'],
    ['server.update', {}, 'Changed the settings'],
    ['server.delete', {}, 'Asked to delete the server'],
    ['server.installed', {}, 'The install finished'],
    ['server.phase_changed', { from: 'STARTING', to: 'RUNNING' }, 'Status changed to “Running”'],
    ['console.command', {}, 'Sent a console command'],
    ['server.sang', {}, 'Something changed (server.sang)'],
  ])('%s', (kind, payload, said) => expect(activityText({ kind, payload })).toBe(said));
  it('names who did it', () => {
    expect(actorText({ type: 'user', name: 'Ana' })).toBe('Ana');
    expect(actorText({ type: 'node', name: '' })).toBe('The node');
    expect(actorText(null)).toBe('Mamba Host');
  });
});

describe('format', () => {
  it('sizes', () => {
    expect([mib(512), mib(1024), mib(1536), gib(20), cores(250), cores(1000), cores(2500)]).toEqual([
      '512 MiB',
      '1 GiB',
      '1.5 GiB',
      '20 GiB',
      '0.25 cores',
      '1 core',
      '2.5 cores',
    ]);
  });
  it('times', () => {
    expect(ago('2026-11-22T11:59:50Z', now)).toBe('just now');
    expect(ago('2026-11-22T09:00:00Z', now)).toBe('3 hours ago');
    expect(ago('2026-11-21 11:00:00.000Z', now)).toBe('yesterday');
    expect(ago('nonsense', now)).toBe('');
    expect([
      span('2026-11-22T11:59:40Z', now),
      span('2026-11-22T11:30:00Z', now),
      span('2026-11-19T11:00:00Z', now),
    ]).toEqual(['a moment', '30 min', '3 d']);
    expect(clock('nonsense')).toBe('--:--:--');
    expect(clock('2026-11-22T10:00:05Z')).toMatch(/^\d\d:\d\d:05$/);
  });
});
