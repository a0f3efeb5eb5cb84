import { createFileRoute } from '@tanstack/react-router';
import { confirmReset } from '@/actions/confirmMail';
import { PasswordDoor } from '@/ui/PasswordDoor';

export const Route = createFileRoute('/reset-password')({
  component: () => (
    <PasswordDoor
      title="door.resetTitle"
      lead="door.resetLead"
      label="door.newPassword"
      save="door.resetSave"
      autoComplete="new-password"
      done="reset"
      work={confirmReset}
    />
  ),
});
