import { Menu } from '@mantine/core';
import { IconLogout, IconSelector, IconUserCircle } from '@tabler/icons-react';
import { useNavigate, useParams } from '@tanstack/react-router';
import type { Account } from '@/api/views';
import { t } from '@/texts';
import { useSignOut } from '@/ui/useSignOut';
import classes from './Switcher.module.css';

/** Who is signed in, at the foot of the rail. */
export function AccountMenu({ account }: { account: Account }) {
  const navigate = useNavigate();
  const org = useParams({ strict: false, select: (p) => p.org ?? '' });
  const signOut = useSignOut();
  const name = account.name || account.email;
  return (
    <Menu width={240} position="top-start">
      <Menu.Target>
        <button type="button" className={classes.button} aria-label={t('frame.accountMenu', { name })}>
          <IconUserCircle size={28} stroke={1.4} aria-hidden="true" />
          <span className={classes.name}>
            <strong>{name}</strong>
            <span>{account.email}</span>
          </span>
          <IconSelector size={16} aria-hidden="true" />
        </button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item
          leftSection={<IconUserCircle size={16} aria-hidden="true" />}
          onClick={() => void navigate({ to: '/o/$org/account', params: { org } })}
        >
          {t('frame.account')}
        </Menu.Item>
        <Menu.Item leftSection={<IconLogout size={16} aria-hidden="true" />} onClick={signOut}>
          {t('action.signOut')}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
