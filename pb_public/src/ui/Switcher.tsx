import { Menu } from '@mantine/core';
import { IconCheck, IconPlus, IconSelector } from '@tabler/icons-react';
import { useNavigate } from '@tanstack/react-router';
import { rememberTenant } from '@/actions/switchTenant';
import type { Tenant } from '@/api/views';
import { t } from '@/texts';
import { Logo } from './Logo';
import classes from './Switcher.module.css';

/** The organisation one is in, and the way to another. */
export function Switcher({ tenants, org }: { tenants: Tenant[]; org: string }) {
  const navigate = useNavigate();
  const here = tenants.find((one) => one.slug === org || one.id === org);
  const name = here?.name ?? t('app.name');
  return (
    <Menu width={260} position="bottom-start">
      <Menu.Target>
        <button type="button" className={classes.button} aria-label={t('frame.switch', { name })}>
          <Logo size={30} />
          <span className={classes.name}>
            <strong>{name}</strong>
            {here && <span>{here.role_name}</span>}
          </span>
          <IconSelector size={16} aria-hidden="true" />
        </button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>{t('frame.organisations')}</Menu.Label>
        {tenants.map((one) => (
          <Menu.Item
            key={one.id}
            rightSection={one === here ? <IconCheck size={16} aria-hidden="true" /> : null}
            aria-current={one === here || undefined}
            onClick={() => {
              rememberTenant(one.slug);
              void navigate({ to: '/o/$org/servers', params: { org: one.slug } });
            }}
          >
            {one.name}
          </Menu.Item>
        ))}
        <Menu.Divider />
        <Menu.Item
          leftSection={<IconPlus size={16} aria-hidden="true" />}
          onClick={() => void navigate({ to: '/welcome' })}
        >
          {t('frame.newOrganisation')}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
