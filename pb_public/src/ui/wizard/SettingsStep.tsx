import { Button, NativeSelect, TextInput } from '@mantine/core';
import { IconChevronDown } from '@tabler/icons-react';
import { useEffect, useRef, useState } from 'react';
import type { Game, Variable } from '@/api/blueprints';
import type { Placement, Quota } from '@/api/views';
import type { Draft, Faults } from '@/stores/draft';
import type { Sliders } from '@/stores/sizing';
import { t } from '@/texts';
import { Notice } from '../Card';
import { Failure } from '../Failure';
import { cores, mib } from '../format';
import { SizeFields } from '../SizeFields';
import { VariableField } from '../VariableField';
import { NodeChoice } from './NodeChoice';
import classes from './wizard.module.css';

interface Props {
  game: Game;
  draft: Draft;
  faults: Faults;
  sliders: Sliders;
  free: Quota;
  placement: Placement | undefined;
  placing: { error: unknown; refetch: () => unknown };
  onChange: (draft: Draft) => void;
  onNext: () => void;
}

/** Name, edition, size, place and the game's own settings. */
export function SettingsStep({ game, draft, faults, sliders, free, placement, placing, onChange, onNext }: Props) {
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (faults.any) form.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
  }, [faults]);
  const fits = placement?.nodes.some((n) => n.fits && (draft.node === '' || n.id === draft.node)) ?? true;
  const variables = (list: Variable[]) =>
    list.map((v) => (
      <VariableField
        key={v.key}
        variable={v}
        value={draft.variables[v.key] ?? ''}
        error={faults.variables[v.key]}
        onChange={(value) => onChange({ ...draft, variables: { ...draft.variables, [v.key]: value } })}
      />
    ));
  const basic = game.variables.filter((v) => v.basic);
  const advanced = game.variables.filter((v) => !v.basic);
  return (
    <form
      ref={form}
      className={classes.form}
      noValidate
      onSubmit={(e) => {
        e.preventDefault();
        if (fits) onNext();
      }}
    >
      {faults.any && (
        <Notice tone="broken">
          {t('create.fix')} {faults.other}
        </Notice>
      )}
      <div className={classes.pair}>
        <TextInput
          label={t('create.name')}
          description={t('create.nameHint')}
          autoComplete="off"
          value={draft.name}
          error={faults.name || undefined}
          onChange={(e) => onChange({ ...draft, name: e.currentTarget.value })}
        />
        {game.variants.length > 1 && (
          <NativeSelect
            label={t('create.variant')}
            value={draft.variant}
            onChange={(e) => onChange({ ...draft, variant: e.currentTarget.value })}
            data={game.variants.map((v) => ({ value: v.key, label: v.name }))}
          />
        )}
      </div>
      <SizeFields
        game={game}
        sliders={sliders}
        limits={draft.limits}
        errors={faults.limits}
        onChange={(limits) => onChange({ ...draft, limits })}
      />
      {Number.isFinite(free.memory_mib + free.cpu_millicores + free.disk_mib) && (
        <p className={classes.quiet}>
          {t('create.quotaLeft', {
            memory: mib(free.memory_mib),
            cpu: cores(free.cpu_millicores),
            disk: mib(free.disk_mib),
          })}
        </p>
      )}
      {placing.error && !placement ? (
        <Failure cause={placing.error} retry={() => void placing.refetch()} />
      ) : (
        <NodeChoice placement={placement} chosen={draft.node} onChange={(node) => onChange({ ...draft, node })} />
      )}
      {basic.length > 0 && (
        <fieldset className={classes.group}>
          <legend>{t('create.variables')}</legend>
          <div className={classes.variables}>{variables(basic)}</div>
        </fieldset>
      )}
      <Folded count={advanced.length} open={advanced.some((v) => faults.variables[v.key])}>
        <div className={classes.variables}>{variables(advanced)}</div>
      </Folded>
      <div>
        <Button type="submit" size="md" disabled={!fits}>
          {t('action.continue')}
        </Button>
      </div>
    </form>
  );
}

/** Settings that most people leave alone. Opens by itself when one of them is wrong. */
export function Folded({ count, open, children }: { count: number; open: boolean; children: React.ReactNode }) {
  const [unfolded, setUnfolded] = useState(false);
  useEffect(() => {
    if (open) setUnfolded(true);
  }, [open]);
  if (count === 0) return null;
  return (
    <div className={classes.folded}>
      <button type="button" className={classes.fold} aria-expanded={unfolded} onClick={() => setUnfolded(!unfolded)}>
        <IconChevronDown size={17} aria-hidden="true" data-open={unfolded} />
        {unfolded ? t('create.advancedHide') : t('create.advanced', { count })}
      </button>
      {unfolded && children}
    </div>
  );
}
