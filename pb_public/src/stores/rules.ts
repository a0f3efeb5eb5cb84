// What a form can say while one types. The panel checks the same again, and decides.
import type { Variable } from '@/api/blueprints';
import { t } from '@/texts';

const MAX_VALUE = 4096;
const control = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

/** Says what is wrong with a variable's value, or "". Mirrors blueprints.Variable.Check. */
export function checkVariable(v: Variable, value: string): string {
  const name = v.name;
  if (value.length > MAX_VALUE) return t('rule.maxLength', { name, count: MAX_VALUE });
  if (control.test(value)) return t('rule.line', { name });
  if (v.accepted && value !== 'true') return t('rule.accepted', { name });
  if (value === '') return v.required ? t('rule.required', { name }) : '';
  switch (v.kind) {
    case 'int':
      return checkInt(v, value);
    case 'bool':
      return value === 'true' || value === 'false' ? '' : t('rule.option', { name });
    case 'enum':
      return v.options.some((o) => o.value === value) ? '' : t('rule.option', { name });
    default:
      return checkText(v, value);
  }
}

function checkInt(v: Variable, value: string): string {
  const name = v.name;
  if (!/^(0|-?[1-9]\d*)$/.test(value)) return t('rule.integer', { name });
  const n = Number(value);
  const low = v.min !== undefined && n < v.min;
  const high = v.max !== undefined && n > v.max;
  if (!low && !high) return '';
  if (v.min !== undefined && v.max !== undefined) return t('rule.between', { name, min: v.min, max: v.max });
  return low ? t('rule.atLeast', { name, min: v.min as number }) : t('rule.atMost', { name, max: v.max as number });
}

function checkText(v: Variable, value: string): string {
  const length = [...value].length;
  if (length < v.minLength) return t('rule.minLength', { name: v.name, count: v.minLength });
  if (v.maxLength > 0 && length > v.maxLength) return t('rule.maxLength', { name: v.name, count: v.maxLength });
  if (v.pattern === '' || matches(v.pattern, value)) return '';
  return v.patternMessage
    ? t('rule.formWith', { name: v.name, message: v.patternMessage })
    : t('rule.form', { name: v.name });
}

// Rules are RE2. What JavaScript cannot read is left to the panel, which can.
function matches(pattern: string, value: string): boolean {
  try {
    return new RegExp(`^(?:${pattern})$`, 'u').test(value);
  } catch {
    return true;
  }
}

export const NAME_MAX = 60; // hooks/servers; other names may be longer

export function checkName(value: string): string {
  if (value.trim() === '') return t('rule.nameMissing');
  return [...value.trim()].length > NAME_MAX ? t('rule.nameLong', { count: NAME_MAX }) : '';
}

/** As checkName, said to the person whose name it is. */
export const checkPersonName = (value: string): string =>
  value.trim() === '' ? t('rule.yourNameMissing') : checkName(value);

export const checkEmail = (value: string): string =>
  /^[^\s@]+@[^\s@]+\.?[^\s@]*$/.test(value.trim()) ? '' : t('rule.email');

export const PASSWORD_MIN = 8;

export const PASSWORD_MAX_BYTES = 72; // what bcrypt takes

export function checkPassword(value: string): string {
  if ([...value].length < PASSWORD_MIN) return t('rule.passwordShort', { count: PASSWORD_MIN });
  const bytes = new TextEncoder().encode(value).length;
  return bytes > PASSWORD_MAX_BYTES ? t('rule.passwordLong', { count: PASSWORD_MAX_BYTES }) : '';
}

export const SLUG_MAX = 40;

export const checkSlug = (value: string): string =>
  value.length <= SLUG_MAX && /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/.test(value) ? '' : t('rule.slug');

/** A slug made of a name: "Ana's Crew" → "anas-crew". */
export const slugOf = (name: string): string =>
  name
    .normalize('NFKD')
    .replace(/[\u0300-\u036f'’]/g, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, SLUG_MAX)
    .replace(/-+$/, '');

/** Where a field of an error belongs in the create form: the server names it with or without its group. */
export function placeError(
  field: string,
  variables: Variable[],
): { group: 'name' | 'variables' | 'limits' | 'other'; key: string } {
  const key = field.split('.').at(-1) ?? field;
  if (field === 'name') return { group: 'name', key };
  if (field.startsWith('limits') || ['memory_mib', 'cpu_millicores', 'disk_gib'].includes(key))
    return { group: 'limits', key };
  if (variables.some((v) => v.key === key)) return { group: 'variables', key };
  return { group: 'other', key };
}
