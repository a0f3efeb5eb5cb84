import { Skeleton, TextInput } from '@mantine/core';
import { IconDeviceGamepad2, IconSearch } from '@tabler/icons-react';
import { useState } from 'react';
import type { Blueprint } from '@/api/blueprints';
import { rank } from '@/stores/rank';
import { t } from '@/texts';
import { Empty } from '../Empty';
import { Failure } from '../Failure';
import { mib } from '../format';
import { GameArt } from '../GameArt';
import classes from './wizard.module.css';

interface Props {
  games: Blueprint[] | undefined;
  error: unknown;
  retry: () => void;
  picked?: string;
  onPick: (slug: string) => void;
}

/** The games as cards, with search. */
export function GameStep({ games, error, retry, picked, onPick }: Props) {
  const [query, setQuery] = useState('');
  if (!games) {
    if (error) return <Failure cause={error} retry={retry} />;
    return (
      <div className={classes.games} aria-busy="true">
        {[0, 1, 2, 3].map((i) => (
          <Skeleton key={i} height={210} radius={12} />
        ))}
      </div>
    );
  }
  if (games.length === 0) {
    return (
      <Empty
        icon={<IconDeviceGamepad2 size={26} aria-hidden="true" />}
        title={t('create.gameNone')}
        lead={t('create.gameNoneLead')}
      />
    );
  }
  const found = rank(games, query, (g) => `${g.name} ${g.categories.join(' ')} ${g.summary}`);
  return (
    <>
      <TextInput
        type="search"
        aria-label={t('create.gameSearch')}
        placeholder={t('create.gameSearch')}
        leftSection={<IconSearch size={17} aria-hidden="true" />}
        value={query}
        onChange={(e) => setQuery(e.currentTarget.value)}
      />
      <ul className={classes.games} aria-label={t('create.games')}>
        {found.map((g) => (
          <li key={g.id}>
            <button type="button" className={classes.game} aria-busy={picked === g.slug} onClick={() => onPick(g.slug)}>
              <GameArt slug={g.slug} name={g.name} url={g.iconUrl} wide />
              <span className={classes.gameText}>
                <strong>{g.name}</strong>
                <span className={classes.gameSummary}>{g.summary}</span>
                {g.resources.memoryMib.min > 0 && (
                  <span className="num">{t('create.gameNeeds', { memory: mib(g.resources.memoryMib.min) })}</span>
                )}
              </span>
            </button>
          </li>
        ))}
      </ul>
      {found.length === 0 && (
        <p className="muted" role="status">
          {t('create.gameEmpty', { query })}
        </p>
      )}
    </>
  );
}
