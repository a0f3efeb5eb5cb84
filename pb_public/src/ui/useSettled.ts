import { useEffect, useState } from 'react';

const STILL_MS = 250;

/** The value once it has stood still for a moment: what a dragged slider ends at. */
export function useSettled<T>(value: T): T {
  const [settled, setSettled] = useState(value);
  const text = JSON.stringify(value);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the text is the value
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), STILL_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}
