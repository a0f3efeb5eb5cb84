import classes from './people.module.css';

/** The first letters of a name, where a picture would be. */
export function Face({ name, quiet }: { name: string; quiet?: boolean }) {
  return (
    <span className={classes.face} aria-hidden="true" data-quiet={quiet || undefined}>
      {initials(name)}
    </span>
  );
}

/** "Max Member" → "MM", "max@example.org" → "M". */
export function initials(name: string): string {
  const words = (name.split('@')[0] ?? '').split(/\s+/).filter(Boolean);
  const picked = words.length > 1 ? [words[0], words.at(-1)] : words;
  return picked.map((word) => [...(word ?? '')][0]?.toLocaleUpperCase() ?? '').join('');
}
