// The one way to a text. English is built in; another language is one more catalogue of the same shape.
import i18next from 'i18next';
import { en } from './en';

type Leaves<T, Path extends string = ''> = {
  [K in keyof T & string]: T[K] extends string ? `${Path}${K}` : Leaves<T[K], `${Path}${K}.`>;
}[keyof T & string];
type Singular<K> = K extends `${infer Root}_one` ? Root : K extends `${string}_other` ? never : K;

/** Key of a text, e.g. "servers.title". A counted text is named without its _one or _other. */
export type TextKey = Singular<Leaves<typeof en>>;

void i18next.init({
  lng: 'en',
  fallbackLng: 'en',
  resources: { en: { translation: en } },
  interpolation: { escapeValue: false }, // React escapes
  initAsync: false,
});

/** The text of a key, with its {{names}} filled in. */
export function t(key: TextKey, values?: Record<string, string | number>): string {
  return i18next.t(key, values as Record<string, string>);
}

/** The text of a key that is put together at run time, or undefined when the catalogue has none. */
export function tMaybe(key: string, values?: Record<string, string | number>): string | undefined {
  return i18next.exists(key) ? String(i18next.t(key, values as Record<string, string>)) : undefined;
}

/** BCP 47 name of the language in use, for dates and numbers. */
export const locale = () => i18next.language;
