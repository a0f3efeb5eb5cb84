import { NativeSelect } from '@mantine/core';
import type { Role } from '@/api/views';
import { assignable } from '@/stores/roles';
import { t } from '@/texts';

interface Props {
  /** Spoken, and shown unless `bare`. */
  label: string;
  bare?: boolean;
  roles: Role[];
  value: string;
  /** Whether "only single servers" is one of the choices. */
  single?: boolean;
  error?: string;
  disabled?: boolean;
  onChange: (role: string) => void;
}

/** The roles that the viewer may hand out. */
export function RoleSelect({ label, bare, roles, value, single, error, disabled, onChange }: Props) {
  const choices = assignable(roles);
  const about = roles.find((r) => r.id === value)?.description;
  return (
    <NativeSelect
      label={bare ? undefined : label}
      aria-label={bare ? label : undefined}
      size={bare ? 'sm' : 'md'}
      description={bare ? undefined : about || undefined}
      inputWrapperOrder={['label', 'input', 'description', 'error']}
      value={value}
      disabled={disabled}
      error={error || undefined}
      onChange={(e) => onChange(e.currentTarget.value)}
      data={[...choices, ...(single ? [{ value: '', label: t('members.single') }] : [])]}
    />
  );
}
