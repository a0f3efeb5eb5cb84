// What a server's phase means on a screen: its tone, its sentence, its install story.
import type { Job, Server } from '@/api/views';
import { type TextKey, t, tMaybe } from '@/texts';
import { ago, span } from '@/ui/format';

/** Meaning of a status colour. Never shown without a word or an icon. */
export type Tone = 'running' | 'working' | 'attention' | 'broken' | 'asleep' | 'off';

const tones: Record<Server['status'], Tone> = {
  INSTALLING: 'working',
  INSTALL_FAILED: 'broken',
  STOPPED: 'off',
  STARTING: 'working',
  RUNNING: 'running',
  STOPPING: 'working',
  CRASHED: 'attention',
  FAILED: 'broken',
  HIBERNATED: 'asleep',
  TRANSFERRING: 'working',
  RESTORING: 'working',
  DELETING: 'working',
  DELETED: 'off',
  UNREACHABLE: 'attention',
};

type Stands = Pick<Server, 'status' | 'suspended' | 'progress' | 'last_start_at' | 'last_exit_at'>;

export function toneOf(server: Pick<Server, 'status' | 'suspended'>): Tone {
  return server.suspended && server.status === 'STOPPED' ? 'attention' : (tones[server.status] ?? 'off');
}

/** One short word or two. */
export function statusWord(server: Pick<Server, 'status' | 'suspended'>): string {
  if (server.suspended && server.status === 'STOPPED') return t('status.suspended');
  return tMaybe(`status.${server.status}`) ?? server.status;
}

/** The status sentence, e.g. "Running for 2 h". */
export function statusSentence(server: Stands, now = Date.now()): string {
  if (server.suspended && server.status === 'STOPPED') return t('sentence.suspended');
  switch (server.status) {
    case 'RUNNING':
      return server.last_start_at
        ? t('sentence.running', { span: span(server.last_start_at, now) })
        : statusWord(server);
    case 'INSTALLING': {
      const step = tMaybe(`install.${stepText[server.progress?.step ?? ''] ?? ''}`);
      return step ? t('sentence.installing', { step }) : statusWord(server);
    }
    case 'STOPPED':
      return server.last_exit_at ? t('sentence.stopped', { ago: ago(server.last_exit_at, now) }) : statusWord(server);
    case 'CRASHED':
      return t('sentence.crashed');
    case 'FAILED':
      return t('sentence.failed');
    case 'HIBERNATED':
      return t('sentence.asleep');
    case 'UNREACHABLE':
      return t('sentence.unreachable');
  }
  return statusWord(server);
}

/** Whether commands may be typed into the console. */
export const takesCommands = (server: Pick<Server, 'status'>): boolean =>
  server.status === 'RUNNING' || server.status === 'STARTING' || server.status === 'STOPPING';

// The node's steps (wire.Progress), in the order they happen, as steps of the story.
const story = ['reserve', 'pull', 'install', 'start', 'ready'] as const;
type StepKey = (typeof story)[number];

const stepOf: Record<string, StepKey> = {
  reserve: 'reserve',
  place: 'reserve',
  pull: 'pull',
  install: 'install',
  create: 'start',
  start: 'start',
  ready: 'ready',
};

const stepText: Record<string, string> = {
  reserve: 'reserve',
  pull: 'pull',
  install: 'script',
  create: 'start',
  start: 'start',
  ready: 'ready_',
};

export interface Step {
  key: StepKey;
  text: TextKey;
  state: 'done' | 'now' | 'todo' | 'failed';
  /** 0 when unknown. */
  percent: number;
  message: string;
}

const texts: Record<StepKey, TextKey> = {
  reserve: 'install.reserve',
  pull: 'install.pull',
  install: 'install.script',
  start: 'install.start',
  ready: 'install.ready_',
};

/** How far an install has got: running, failed (with the server as it stands), or finished. */
export type Outcome = 'going' | 'failed' | 'ready' | 'stopped';

export function installOutcome(server: Pick<Server, 'status' | 'install_status'>, job?: Job | null): Outcome {
  if (server.status === 'RUNNING' || server.status === 'HIBERNATED') return 'ready';
  if (server.status === 'INSTALL_FAILED' || server.status === 'FAILED') return 'failed';
  if (server.status === 'STOPPED') return job && !ended(job) ? 'going' : job?.state === 'dead' ? 'failed' : 'stopped';
  return 'going';
}

const ended = (job: Job) => job.state !== 'ready' && job.state !== 'running' && job.state !== 'waiting';

/** The steps of the install story, from the server's own progress first and its job's second. */
export function installSteps(server: Pick<Server, 'status' | 'install_status' | 'progress'>, job?: Job | null): Step[] {
  const outcome = installOutcome(server, job);
  const progress = server.progress?.step ? server.progress : (job?.progress ?? null);
  const at = position(server, progress?.step ?? '');
  return story.map((key, i) => ({
    key,
    text: texts[key],
    state:
      outcome === 'ready' || i < at || (outcome === 'stopped' && i <= story.indexOf('install'))
        ? 'done'
        : outcome === 'stopped' || i > at
          ? 'todo'
          : outcome === 'failed'
            ? 'failed'
            : 'now',
    percent: i === at && outcome === 'going' ? (progress?.percent ?? 0) : 0,
    message: i === at && outcome === 'going' ? (progress?.message ?? '') : '',
  }));
}

function position(server: Pick<Server, 'status' | 'install_status'>, step: string): number {
  if (server.status === 'INSTALL_FAILED') return story.indexOf(step === 'pull' ? 'pull' : 'install');
  const named = stepOf[step];
  if (named && !(server.install_status === 'DONE' && story.indexOf(named) < story.indexOf('start')))
    return story.indexOf(named);
  if (server.status === 'STARTING' || server.status === 'CRASHED' || server.status === 'FAILED')
    return story.indexOf('ready');
  return server.install_status === 'DONE'
    ? story.indexOf('start')
    : server.install_status === 'RUNNING'
      ? story.indexOf('install')
      : 0;
}
