// Small choices that this device remembers. Works without storage, then for as long as the page is open.
const memory = new Map<string, string>();

export function keep(name: string, value: string): void {
  memory.set(name, value);
  try {
    localStorage.setItem(`mamba.${name}`, value);
  } catch {
    // storage is off or full; `memory` has it
  }
}

export function kept(name: string): string | null {
  try {
    return localStorage.getItem(`mamba.${name}`) ?? memory.get(name) ?? null;
  } catch {
    return memory.get(name) ?? null;
  }
}
