import { Button, TextInput } from '@mantine/core';
import { IconAlertCircle, IconCircleCheck } from '@tabler/icons-react';
import { useState } from 'react';
import { changeEmail } from '@/actions/changeAccount';
import { resendVerification } from '@/actions/confirmMail';
import type { Account } from '@/api/views';
import { checkEmail } from '@/stores/rules';
import { t } from '@/texts';
import { Card } from '@/ui/Card';
import { toastDone } from '@/ui/toast';
import { useAct } from '@/ui/useAct';
import classes from './account.module.css';

/** One's address: whether it is confirmed, and how to change it. */
export function EmailCard({ account }: { account: Account }) {
  const [email, setEmail] = useState('');
  const [fault, setFault] = useState('');
  const { run, busy } = useAct(
    async () => {
      const found = checkEmail(email);
      setFault(found);
      if (found) return;
      await changeEmail(email);
      toastDone(t('account.emailSent', { email: email.trim() }));
      setEmail('');
    },
    (error) => {
      setFault(error.fields.newEmail ? t('account.emailNot') : error.message);
      return true;
    },
  );
  const again = useAct(async () => {
    await resendVerification(account.email);
    toastDone(t('account.resent', { email: account.email }));
  });
  return (
    <Card title={t('account.changeEmailTitle')} lead={t('account.changeEmailLead')}>
      <div className={classes.form}>
        <p className={classes.email}>
          {account.email}
          <span className={classes.confirmed} data-ok={account.verified}>
            {account.verified ? (
              <IconCircleCheck size={16} aria-hidden="true" />
            ) : (
              <IconAlertCircle size={16} aria-hidden="true" />
            )}
            {account.verified ? t('account.verified') : t('account.unverified')}
          </span>
        </p>
        {!account.verified && (
          <Button variant="default" loading={again.busy} onClick={() => void again.run()}>
            {t('account.resend')}
          </Button>
        )}
        <form
          className={classes.form}
          noValidate
          onSubmit={(e) => {
            e.preventDefault();
            void run();
          }}
        >
          <TextInput
            label={t('account.newEmail')}
            type="email"
            autoComplete="email"
            value={email}
            error={fault || undefined}
            onChange={(e) => setEmail(e.currentTarget.value)}
          />
          <Button type="submit" variant="default" loading={busy} disabled={email.trim() === ''}>
            {t('account.changeEmail')}
          </Button>
        </form>
      </div>
    </Card>
  );
}
