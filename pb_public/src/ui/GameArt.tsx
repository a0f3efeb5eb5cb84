import { useState } from 'react';
import classes from './GameArt.module.css';

/** A game's picture, wide on a ground of its own colours; its first letter when there is none. Decorative. */
export function GameArt({
  slug,
  name,
  url,
  size = 48,
  wide = false,
}: {
  slug: string;
  name: string;
  url: string;
  size?: number;
  wide?: boolean;
}) {
  const [broken, setBroken] = useState(false);
  const hue = [...slug].reduce((h, c) => (h * 31 + c.charCodeAt(0)) % 360, 7);
  return (
    <span
      className={wide ? classes.wide : classes.art}
      style={{ '--hue': hue, '--size': `${size}px` } as React.CSSProperties}
      aria-hidden="true"
    >
      {url && !broken ? (
        <>
          {wide && <img src={url} alt="" loading="lazy" className={classes.ground} />}
          <img src={url} alt="" loading="lazy" onError={() => setBroken(true)} />
        </>
      ) : (
        <span>{name.slice(0, 1)}</span>
      )}
    </span>
  );
}
