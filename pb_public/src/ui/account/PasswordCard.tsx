import { Button, PasswordInput } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { changePassword } from '@/actions/changeAccount';
import type { Account } from '@/api/views';
import { checkPassword } from '@/stores/rules';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import classes from './account.module.css';

const empty = { old: '', next: '' };

/** A new password, for the present one. */
export function PasswordCard({ account }: { account: Account }) {
  const [typed, setTyped] = useState(empty);
  const [faults, setFaults] = useState(empty);
  const { run, busy } = useAct(
    async () => {
      const found = { old: '', next: checkPassword(typed.next) };
      setFaults(found);
      if (found.next) return;
      await changePassword(account.id, typed.old, typed.next);
      setTyped(empty);
      toastDone(t('account.passwordSaved'));
    },
    (error) => {
      const { oldPassword, password } = error.fields;
      setFaults({ old: oldPassword ? t('account.passwordWrong') : '', next: password?.message ?? '' });
      return Boolean(oldPassword || password);
    },
  );
  return (
    <Card title={t('account.password')} lead={t('account.passwordLead')}>
      <form
        className={classes.form}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        <input type="text" hidden readOnly autoComplete="username" value={account.email} />
        <PasswordInput
          label={t('account.oldPassword')}
          autoComplete="current-password"
          value={typed.old}
          error={faults.old || undefined}
          visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
          onChange={(e) => setTyped({ ...typed, old: e.currentTarget.value })}
        />
        <PasswordInput
          label={t('door.newPassword')}
          description={t('door.passwordHint')}
          autoComplete="new-password"
          value={typed.next}
          error={faults.next || undefined}
          visibilityToggleButtonProps={{ 'aria-label': t('door.showPassword'), tabIndex: 0 }}
          onChange={(e) => setTyped({ ...typed, next: e.currentTarget.value })}
        />
        <Button type="submit" loading={busy} disabled={typed.old === '' || typed.next === ''}>
          {t('account.savePassword')}
        </Button>
        <p className="muted">
          {t('account.passwordNone')} <Link to="/forgot-password">{t('account.passwordNoneLink')}</Link>
        </p>
      </form>
    </Card>
  );
}
