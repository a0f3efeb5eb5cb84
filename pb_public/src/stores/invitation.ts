// The invitation that somebody follows, for as long as the tab is open: one may have to sign in or to make an
// account in between. Its token is never in an address that a server sees.
export interface Invitation {
  id: string;
  token: string;
  /** The address that is invited; "" until the panel has said it. */
  email: string;
}

const PLACE = 'mamba.invitation';
let memory: Invitation | null = null; // where storage is off

/** What stands behind the '#' of the mail's link, or null. */
export function invitationOf(hash: string): Invitation | null {
  const found = new URLSearchParams(hash.replace(/^#/, ''));
  const [id, token] = [found.get('id') ?? '', found.get('token') ?? ''];
  return id && token ? { id, token, email: '' } : null;
}

export function keepInvitation(invitation: Invitation): void {
  memory = invitation;
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(invitation));
  } catch {
    // `memory` has it until the page is loaded again
  }
}

export function keptInvitation(): Invitation | null {
  try {
    const held = JSON.parse(sessionStorage.getItem(PLACE) ?? 'null') as Partial<Invitation> | null;
    if (!held) return memory;
    const { id, token, email } = held;
    return id && token ? { id: String(id), token: String(token), email: String(email ?? '') } : null;
  } catch {
    return memory;
  }
}

/** The address that is invited, on the way there and back; "" when one goes somewhere else. */
export const invitedEmail = (next: string | undefined): string =>
  next === '/invite' ? (keptInvitation()?.email ?? '') : '';

export function dropInvitation(): void {
  memory = null;
  try {
    sessionStorage.removeItem(PLACE);
  } catch {
    // nothing was kept
  }
}
