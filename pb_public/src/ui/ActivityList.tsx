import { Skeleton } from '@mantine/core';
import {
  IconAlertTriangle,
  IconCircleDot,
  IconPlayerPlay,
  IconPlayerStop,
  IconPlus,
  IconRefresh,
  IconSettings,
  IconTerminal2,
  IconTrash,
} from '@tabler/icons-react';
import type { Activity } from '@/api/views';
import { activityText, actorText } from '@/stores/activity';
import { t } from '@/texts';
import classes from './ActivityList.module.css';
import { Ago } from './Ago';
import { Failure } from './Failure';

const icons: [RegExp, typeof IconPlus][] = [
  [/crash|fail|unreach|problem/, IconAlertTriangle],
  [/creat|placed/, IconPlus],
  [/delet/, IconTrash],
  [/restart|reinstall|install/, IconRefresh],
  [/start|running|reachable/, IconPlayerPlay],
  [/stop|kill|suspend/, IconPlayerStop],
  [/command|console/, IconTerminal2],
  [/updat|renam|chang/, IconSettings],
];

/** What happened, newest first, with who did it. */
export function ActivityList({
  items,
  error,
  retry,
}: {
  items: Activity[] | undefined;
  error?: unknown;
  retry: () => void;
}) {
  if (!items) {
    if (error) return <Failure cause={error} retry={retry} />;
    return (
      <div aria-busy="true" className={classes.loading}>
        {[0, 1, 2, 3].map((i) => (
          <Skeleton key={i} height={36} />
        ))}
      </div>
    );
  }
  if (items.length === 0) return <p className="muted">{t('activity.emptyLead')}</p>;
  return (
    <ul className={classes.activity}>
      {items.map((one) => {
        const Icon = icons.find(([kind]) => kind.test(one.kind))?.[1] ?? IconCircleDot;
        return (
          <li key={one.id}>
            <Icon size={18} stroke={1.7} aria-hidden="true" />
            <div>
              <p>{activityText(one)}</p>
              <small>
                {actorText(one.actor)} · <Ago at={one.at} />
              </small>
            </div>
          </li>
        );
      })}
    </ul>
  );
}
