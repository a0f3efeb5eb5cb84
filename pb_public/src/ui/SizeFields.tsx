import { Slider } from '@mantine/core';
import { useId } from 'react';
import type { Game } from '@/api/blueprints';
import type { Limits } from '@/api/views';
import { hintFor, type Slider as Range, type Sliders, stops } from '@/stores/sizing';
import { type TextKey, t } from '@/texts';
import { cores, gib, mib } from './format';
import classes from './SizeFields.module.css';

interface Props {
  game: Pick<Game, 'hints'>;
  sliders: Sliders;
  limits: Limits;
  errors: Record<string, string>;
  disabled?: boolean;
  onChange: (limits: Limits) => void;
}

const fields: { key: keyof Limits; label: TextKey; show: (n: number) => string }[] = [
  { key: 'memory_mib', label: 'create.memory', show: mib },
  { key: 'cpu_millicores', label: 'create.cpu', show: cores },
  { key: 'disk_gib', label: 'create.disk', show: gib },
];

/** Three sliders that say what fits. */
export function SizeFields({ game, sliders, limits, errors, disabled, onChange }: Props) {
  return (
    <div className={classes.fields}>
      {fields.map((f) => (
        <SizeField
          key={f.key}
          label={t(f.label)}
          show={f.show}
          range={sliders[f.key]}
          value={limits[f.key]}
          hint={
            f.key === 'memory_mib'
              ? memoryHint(game, limits.memory_mib, sliders.memory_mib)
              : hintOf(f.show, limits[f.key], sliders[f.key])
          }
          error={errors[f.key]}
          disabled={disabled}
          onChange={(n) => onChange({ ...limits, [f.key]: n })}
        />
      ))}
    </div>
  );
}

function memoryHint(game: Pick<Game, 'hints'>, memoryMib: number, range: Range): string {
  const hint = hintFor(game, memoryMib);
  if (hint) return hint.text || t('create.players', { count: hint.players });
  return hintOf(mib, memoryMib, range);
}

function hintOf(show: (n: number) => string, value: number, range: Range): string {
  if (value < range.recommended) return t('create.belowRecommended', { value: show(range.recommended) });
  return t('create.enough');
}

interface FieldProps {
  label: string;
  show: (n: number) => string;
  range: Range;
  value: number;
  hint: string;
  error?: string;
  disabled?: boolean;
  onChange: (n: number) => void;
}

function SizeField({ label, show, range, value, hint, error, disabled, onChange }: FieldProps) {
  const id = useId();
  const fixed = range.min >= range.max;
  const all = stops(range, value);
  const marked = range.recommended > range.min && range.recommended < range.max;
  return (
    <div className={classes.field}>
      <div className={classes.head}>
        <span id={id}>{label}</span>
        <output className="num">{show(value)}</output>
      </div>
      <Slider
        aria-labelledby={id}
        thumbProps={{ 'aria-labelledby': id } as React.ComponentProps<'div'>}
        thumbValueText={show(value)}
        min={0}
        max={Math.max(1, all.length - 1)}
        step={1}
        value={all.indexOf(value)}
        disabled={disabled || fixed}
        label={null}
        marks={marked ? [{ value: all.indexOf(range.recommended) }] : undefined}
        onChange={(at) => onChange(all[at] ?? value)}
      />
      <div className={classes.ends} aria-hidden="true">
        <span>{show(range.min)}</span>
        <span>{show(range.max)}</span>
      </div>
      {error ? (
        <p className={classes.error} role="alert">
          {error}
        </p>
      ) : (
        <p className={classes.hint}>{hint}</p>
      )}
    </div>
  );
}
