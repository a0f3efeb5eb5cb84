import { NativeSelect, PasswordInput, Switch, TextInput } from '@mantine/core';
import type { Variable } from '@/api/blueprints';
import { t } from '@/texts';

interface Props {
  variable: Variable;
  value: string;
  error?: string;
  /** A secret that is set already: shown as set, kept when the field stays empty. */
  kept?: boolean;
  disabled?: boolean;
  onChange: (value: string) => void;
}

/** One variable of a game, as the control that fits its kind. */
export function VariableField({ variable: v, value, error, kept, disabled, onChange }: Props) {
  const fixed = disabled || !v.editable;
  const common = {
    id: `var-${v.key}`,
    label: v.name,
    description: [v.description, v.editable ? '' : t('settings.fixed')].filter(Boolean).join(' ') || undefined,
    error: error || undefined,
    disabled: fixed,
    withAsterisk: (v.required && !kept) || v.accepted,
  };
  const { withAsterisk, ...plain } = common; // a switch has no mark of its own
  switch (v.kind) {
    case 'bool':
      return (
        <Switch
          {...plain}
          label={withAsterisk ? <Marked name={v.name} /> : v.name}
          labelPosition="right"
          size="md"
          checked={value === 'true'}
          onChange={(e) => onChange(e.currentTarget.checked ? 'true' : 'false')}
        />
      );
    case 'enum':
      return (
        <NativeSelect {...common} value={value} onChange={(e) => onChange(e.currentTarget.value)}>
          {!v.options.some((o) => o.value === value) && <option value={value}>{value}</option>}
          {v.options.map((o) => (
            <option key={o.value} value={o.value}>
              {o.label}
            </option>
          ))}
        </NativeSelect>
      );
    case 'secret':
      return (
        <PasswordInput
          {...common}
          description={[v.description, kept ? t('settings.secretKept') : t('create.secretHint')]
            .filter(Boolean)
            .join(' ')}
          value={value}
          autoComplete="new-password"
          visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
          onChange={(e) => onChange(e.currentTarget.value)}
        />
      );
    default:
      return (
        <TextInput
          {...common}
          value={value}
          inputMode={v.kind === 'int' ? 'numeric' : undefined}
          autoComplete="off"
          spellCheck={v.kind === 'string' ? undefined : false}
          onChange={(e) => onChange(e.currentTarget.value)}
        />
      );
  }
}

/** A name with the mark that text fields give to what is needed. */
function Marked({ name }: { name: string }) {
  return (
    <>
      {name}
      <span aria-hidden="true" style={{ color: 'var(--mantine-color-error)' }}>
        {' *'}
      </span>
    </>
  );
}
