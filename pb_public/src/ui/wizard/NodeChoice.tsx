import { Skeleton } from '@mantine/core';
import { useId } from 'react';
import type { Placement, PlacementNode } from '@/api/views';
import { t } from '@/texts';
import { Notice } from '../Card';
import { mib } from '../format';
import classes from './wizard.module.css';

/** Where the server goes: our choice, or a node with what it has free. */
export function NodeChoice({
  placement,
  chosen,
  onChange,
}: {
  placement: Placement | undefined;
  chosen: string;
  onChange: (node: string) => void;
}) {
  const group = useId();
  if (!placement) return <Skeleton height={120} radius={10} />;
  if (placement.nodes.length === 0) return <Notice tone="attention">{t('create.nodeNoneAtAll')}</Notice>;
  const best = placement.nodes.find((n) => n.id === placement.chosen);
  return (
    <fieldset className={classes.group}>
      <legend>{t('create.node')}</legend>
      <div className={classes.nodes}>
        <label className={classes.node}>
          <input type="radio" name={group} checked={chosen === ''} onChange={() => onChange('')} />
          <span>
            <strong>{t('create.nodeAuto')}</strong>
            <small>{best ? t('create.nodeAutoLead', { name: best.name }) : t('create.nodeAutoNone')}</small>
          </span>
        </label>
        {placement.nodes.map((n) => (
          <label key={n.id} className={classes.node} data-off={!n.fits || undefined}>
            <input
              type="radio"
              name={group}
              checked={chosen === n.id}
              disabled={!n.fits}
              onChange={() => onChange(n.id)}
            />
            <span>
              <strong>{n.name}</strong>
              <small className="num">
                {n.fits
                  ? [n.location, t('create.nodeFree', { memory: mib(n.free.memory_mib) })].filter(Boolean).join(' · ')
                  : reason(n)}
              </small>
            </span>
          </label>
        ))}
      </div>
      {!placement.nodes.some((n) => n.fits) && <Notice tone="attention">{t('create.nodeNone')}</Notice>}
    </fieldset>
  );
}

function reason(node: PlacementNode): string {
  if (typeof node.reason === 'string' && node.reason) return node.reason;
  if (typeof node.reason === 'object' && node.reason?.message)
    return node.reason.message.replace(/^./, (c) => c.toUpperCase());
  return t('create.nodeAutoNone');
}
