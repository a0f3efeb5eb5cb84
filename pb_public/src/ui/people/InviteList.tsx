import { Button } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { resendInvite, revokeInvite } from '@/actions/invites';
import type { Invite } from '@/api/views';
import { t } from '@/texts';
import { Confirm } from '../Confirm';
import { day, exact } from '../format';
import { toastDone } from '../toast';
import { useAct } from '../useAct';
import { Face } from './Face';
import classes from './people.module.css';

/** Invitations that nobody has accepted yet. */
export function InviteList({ org, invites }: { org: string; invites: Invite[] }) {
  const client = useQueryClient();
  const [asking, setAsking] = useState<Invite | null>(null);
  const [open, setOpen] = useState(false);
  const { run, busy } = useAct(async (one: Invite) => {
    await revokeInvite(client, org, one.id);
    setOpen(false);
    toastDone(t('invites.revoked', { email: one.email }));
  });
  return (
    <>
      <ul className={`${classes.list} ${classes.invites}`}>
        {invites.map((one) => (
          <Row
            key={one.id}
            org={org}
            one={one}
            onRevoke={() => {
              setAsking(one);
              setOpen(true);
            }}
          />
        ))}
      </ul>
      <Confirm
        opened={open}
        onClose={() => setOpen(false)}
        title={t('invites.revokeTitle')}
        confirm={t('invites.revoke')}
        busy={busy}
        onConfirm={() => asking && void run(asking)}
      >
        {t('invites.revokeWhat', { email: asking?.email ?? '' })}
      </Confirm>
    </>
  );
}

function Row({ org, one, onRevoke }: { org: string; one: Invite; onRevoke: () => void }) {
  const client = useQueryClient();
  const { run, busy } = useAct(async () => {
    await resendInvite(client, org, one.id);
    toastDone(t('invites.resent', { email: one.email }));
  });
  const { email, role_name: role } = one;
  return (
    <li className={classes.row} data-testid="invite">
      <Face name={email} quiet />
      <div className={classes.who}>
        <strong>{email}</strong>
        <p>
          {one.server ? t('invites.forServer', { role, server: one.server_name }) : t('invites.forAll', { role })}
          {one.invited_by && `, ${t('invites.by', { name: one.invited_by })}`}
        </p>
        <p title={exact(one.expires_at)}>{t('invites.until', { date: day(one.expires_at) })}</p>
      </div>
      <div className={classes.end}>
        <Button
          variant="default"
          size="compact-sm"
          loading={busy}
          aria-label={t('invites.resendTo', { email })}
          onClick={() => void run()}
        >
          {t('invites.resend')}
        </Button>
        <Button
          variant="subtle"
          color="red"
          size="compact-sm"
          aria-label={t('invites.revokeOf', { email })}
          onClick={onRevoke}
        >
          {t('invites.revoke')}
        </Button>
      </div>
    </li>
  );
}
