import { createFileRoute } from '@tanstack/react-router';
import { confirmEmail } from '@/actions/confirmMail';
import { PasswordDoor } from '@/ui/PasswordDoor';

export const Route = createFileRoute('/confirm-email')({
  component: () => (
    <PasswordDoor
      title="door.emailTitle"
      lead="door.emailLead"
      label="door.password"
      save="door.emailSave"
      autoComplete="current-password"
      done="email"
      work={confirmEmail}
    />
  ),
});
