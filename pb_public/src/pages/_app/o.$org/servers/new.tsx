import { Button } from '@mantine/core';
import { IconLock } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { createFileRoute, useNavigate } from '@tanstack/react-router';
import { useRef, useState } from 'react';
import { createServer, keyKeeper } from '@/actions/createServer';
import type { Game } from '@/api/blueprints';
import type { Current } from '@/api/views';
import {
  changedVariables,
  type Draft,
  draftOf,
  dropDraft,
  type Faults,
  faultsOf,
  keepDraft,
  keptDraft,
  noFaults,
  placeFaults,
  toNewServer,
} from '@/stores/draft';
import { permissionsOf } from '@/stores/permissions';
import { blueprintsQuery, currentQuery, gameQuery, placementQuery } from '@/stores/queries';
import { clamp, left, recommended, type Sliders, sliders } from '@/stores/sizing';
import { t } from '@/texts';
import { Empty } from '@/ui/Empty';
import { Failure } from '@/ui/Failure';
import { PageHead } from '@/ui/PageHead';
import { useAct } from '@/ui/useAct';
import { useSettled } from '@/ui/useSettled';
import { GameStep } from '@/ui/wizard/GameStep';
import { Review, Summary, type SummaryRow } from '@/ui/wizard/Review';
import { SettingsStep } from '@/ui/wizard/SettingsStep';
import { WizardStep } from '@/ui/wizard/WizardStep';
import classes from '@/ui/wizard/wizard.module.css';

export const Route = createFileRoute('/_app/o/$org/servers/new')({
  validateSearch: (s: Record<string, unknown>): { game?: string; review?: boolean } => ({
    game: typeof s.game === 'string' ? s.game : undefined,
    review: s.review === true && typeof s.game === 'string' ? true : undefined,
  }),
  component: NewServerPage,
});

function NewServerPage() {
  const { org } = Route.useParams();
  const current = useQuery(currentQuery(org));
  const crumbs = [{ text: t('servers.title'), link: { to: '/o/$org/servers', params: { org } } as const }];
  const blocked = current.data ? whyNot(current.data) : '';
  return (
    <>
      <PageHead crumbs={crumbs} title={t('create.title')} lead={t('create.lead')} />
      {current.error && !current.data ? (
        <Failure cause={current.error} retry={() => void current.refetch()} />
      ) : !current.data ? (
        <div className={classes.wizard}>
          <div className={classes.steps}>
            <WizardStep n={1} title={t('create.game')} state="open">
              <GameStep games={undefined} error={null} retry={() => undefined} onPick={() => undefined} />
            </WizardStep>
          </div>
        </div>
      ) : blocked ? (
        <Empty icon={<IconLock size={26} aria-hidden="true" />} title={t('create.title')} lead={blocked} />
      ) : (
        <Wizard org={org} current={current.data} />
      )}
    </>
  );
}

function whyNot(current: Current): string {
  if (current.tenant.status !== 'ACTIVE') return t('create.notNow', { name: current.tenant.name });
  if (!permissionsOf(current).can('server.create')) return t('create.notAllowed');
  if (left(current.quota, current.used).servers < 1)
    return t('create.quotaUsedUp', { count: current.quota?.servers ?? 0 });
  return '';
}

function Wizard({ org, current }: { org: string; current: Current }) {
  const { game: slug, review } = Route.useSearch();
  const navigate = useNavigate({ from: Route.fullPath });
  const games = useQuery(blueprintsQuery(org));
  const game = useQuery({ ...gameQuery(org, slug ?? ''), enabled: slug !== undefined });
  const pick = (next: string | undefined) => void navigate({ search: { game: next }, replace: slug !== undefined });
  return game.data && slug ? (
    <Chosen
      key={game.data.slug}
      org={org}
      current={current}
      game={game.data}
      review={review === true}
      toStep={(last) => void navigate({ search: { game: slug, review: last || undefined } })}
      repick={() => pick(undefined)}
    />
  ) : (
    <div className={classes.wizard}>
      <div className={classes.steps}>
        <WizardStep n={1} title={t('create.game')} state="open">
          {game.error ? (
            <Failure cause={game.error} retry={() => void game.refetch()} />
          ) : (
            <GameStep
              games={games.data}
              error={games.error}
              retry={() => void games.refetch()}
              picked={slug}
              onPick={pick}
            />
          )}
        </WizardStep>
        <WizardStep n={2} title={t('create.size')} state="todo" />
        <WizardStep n={3} title={t('create.review')} state="todo" />
      </div>
      <Summary lead={t('create.pickFirst')} rows={[]} />
    </div>
  );
}

interface ChosenProps {
  org: string;
  current: Current;
  game: Game;
  /** Whether the last step is asked for. It is shown once nothing is wrong with the one before. */
  review: boolean;
  toStep: (last: boolean) => void;
  repick: () => void;
}

/** Steps two and three, once there is a game. */
function Chosen({ org, current, game, review, toStep, repick }: ChosenProps) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const free = left(current.quota, current.used);
  const [draft, setDraft] = useState<Draft>(() =>
    keptDraft(org, game, draftOf(game, recommended(sliders(game, free, [])))),
  );
  const [faults, setFaults] = useState<Faults>(noFaults);
  const change = (next: Draft) => {
    setDraft(next);
    keepDraft(org, game, next);
  };
  const keyFor = useRef(keyKeeper());
  const placement = useQuery(placementQuery(org, { blueprint: game.id, limits: useSettled(draft.limits) }));
  const nodes = placement.data?.nodes ?? [];
  const range: Sliders = sliders(game, free, nodes);
  const limits = clamp(draft.limits, range);
  const settled = { ...draft, limits };
  const step = review && !faultsOf(settled, game).any ? 3 : 2;
  const toReview = () => {
    const found = faultsOf(settled, game);
    setFaults(found);
    if (found.any) return;
    toStep(true);
  };
  const { run, busy } = useAct(
    async () => {
      const content = toNewServer(settled, game);
      const server = await createServer(client, org, content, keyFor.current(content));
      dropDraft(org, game);
      await navigate({ to: '/o/$org/servers/$server/install', params: { org, server: server.id } });
    },
    (error) => {
      const found = placeFaults(error, game);
      if (!found.any) return false;
      setFaults(found);
      toStep(false);
      return true;
    },
  );
  const rows = summaryRows(settled, game, nodes, placement.data?.chosen);
  return (
    <div className={classes.wizard}>
      <div className={classes.steps}>
        <WizardStep n={1} title={t('create.game')} state="done" said={game.name} onChange={repick} />
        <WizardStep
          n={2}
          title={t('create.size')}
          state={step === 2 ? 'open' : 'done'}
          said={settled.name}
          onChange={() => toStep(false)}
        >
          <SettingsStep
            game={game}
            draft={settled}
            faults={faults}
            sliders={range}
            free={free}
            placement={placement.data}
            placing={placement}
            onChange={change}
            onNext={toReview}
          />
        </WizardStep>
        <WizardStep n={3} title={t('create.review')} state={step === 3 ? 'open' : 'todo'}>
          <Review rows={rows} />
          <Button size="md" loading={busy} onClick={() => void run()}>
            {t('action.create')}
          </Button>
        </WizardStep>
      </div>
      <Summary rows={rows} game={game} />
    </div>
  );
}

function summaryRows(
  draft: Draft,
  game: Game,
  nodes: { id: string; name: string }[],
  chosen: string | undefined,
): SummaryRow[] {
  const node = nodes.find((n) => n.id === (draft.node || chosen))?.name;
  const changed = changedVariables(draft, game);
  const ports = game.ports.reduce((n, p) => n + p.count, 0);
  const variant = game.variants.length > 1 ? game.variants.find((v) => v.key === draft.variant)?.name : undefined;
  return [
    { key: t('create.summaryName'), value: draft.name || t('create.notYet') },
    { key: t('create.summaryGame'), value: variant ? `${game.name}, ${variant}` : game.name },
    { key: t('create.summarySize'), size: draft.limits },
    { key: t('create.summaryNode'), value: node ?? t('create.notYet') },
    ...(ports > 0 ? [{ key: t('create.summaryPorts'), value: t('create.ports', { count: ports }) }] : []),
    {
      key: t('create.summarySettings'),
      value: changed.length === 0 ? t('create.defaults') : t('create.changed', { count: changed.length }),
      brief: changed.length > 0,
    },
    ...changed.map((c) => ({ key: c.name, value: c.value, full: true })),
  ];
}
