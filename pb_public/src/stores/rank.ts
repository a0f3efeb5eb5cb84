// Which of a list a few typed letters mean.

/** The items that hold every word of the query, those that begin with it first. The order is kept otherwise. */
export function rank<T>(items: T[], query: string, text: (item: T) => string): T[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return items;
  const scored: { item: T; score: number }[] = [];
  for (const item of items) {
    const hay = text(item).toLowerCase();
    if (!words.every((w) => hay.includes(w))) continue;
    const first = words[0] as string;
    scored.push({ item, score: hay.startsWith(first) ? 0 : hay.includes(` ${first}`) ? 1 : 2 });
  }
  return scored.sort((a, b) => a.score - b.score).map((s) => s.item);
}
