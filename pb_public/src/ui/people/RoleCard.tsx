import { Button } from '@mantine/core';
import type { PermissionInfo, Role } from '@/api/views';
import { allows, heldBy } from '@/stores/roles';
import { t } from '@/texts';
import classes from './roles.module.css';

interface Props {
  role: Role;
  permissions: PermissionInfo[];
  /** Whether the viewer manages roles. */
  manage: boolean;
  onEdit: () => void;
  onDelete: () => void;
}

/** What a role is for, who has it, and what it may do, in plain words. */
export function RoleCard({ role, permissions, manage, onEdit, onDelete }: Props) {
  const groups = heldBy(role, permissions);
  const own = manage && !role.system;
  return (
    <li className={classes.role} data-testid="role">
      <header>
        <div>
          <h3>
            {role.name}
            {role.system && <span className={classes.tag}>{t('roles.fixed')}</span>}
          </h3>
          {role.description && <p className="muted">{role.description}</p>}
        </div>
        <span className={classes.count}>{t('roles.members', { count: role.members })}</span>
      </header>
      {groups.length > 0 ? (
        <dl>
          {groups.map((group) => (
            <div key={group.resource}>
              <dt>{group.name}</dt>
              <dd>{group.permissions.map(allows).join(' · ')}</dd>
            </div>
          ))}
        </dl>
      ) : (
        <p className="muted">{t('roles.nothing')}</p>
      )}
      {own && (
        <footer>
          {role.assignable ? (
            <>
              <Button
                variant="default"
                size="compact-sm"
                aria-label={t('roles.editOf', { name: role.name })}
                onClick={onEdit}
              >
                {t('roles.edit')}
              </Button>
              <Button
                variant="subtle"
                color="red"
                size="compact-sm"
                disabled={role.members > 0}
                aria-label={t('roles.deleteOf', { name: role.name })}
                onClick={onDelete}
              >
                {t('roles.delete')}
              </Button>
              {role.members > 0 && <p className={classes.why}>{t('roles.inUse', { count: role.members })}</p>}
            </>
          ) : (
            <p className={classes.why}>{t('roles.beyond')}</p>
          )}
        </footer>
      )}
    </li>
  );
}
