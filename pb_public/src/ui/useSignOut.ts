import { useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { signOut } from '@/actions/signOut';

/** Leaves the session and goes to the sign-in page, without the sentence about an ended session. */
export function useSignOut(): () => void {
  const client = useQueryClient();
  const navigate = useNavigate();
  return () => {
    void navigate({ to: '/sign-in' }).then(() => signOut(client));
  };
}
