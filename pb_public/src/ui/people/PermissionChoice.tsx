import { Checkbox } from '@mantine/core';
import type { PermissionInfo } from '@/api/views';
import { allows, grouped } from '@/stores/roles';
import classes from './roles.module.css';

interface Props {
  title: string;
  permissions: PermissionInfo[];
  /** Keys of permissions. */
  chosen: string[];
  /** What is said of a permission that one has not oneself, and so cannot hand out. */
  notYours: string;
  onChange: (chosen: string[]) => void;
}

/** Permissions to choose from, in groups, in plain words. */
export function PermissionChoice({ title, permissions, chosen, notYours, onChange }: Props) {
  const set = (key: string, on: boolean) =>
    onChange(on ? [...chosen, key].sort() : chosen.filter((one) => one !== key));
  return (
    <div>
      <h3>{title}</h3>
      <div className={classes.groups}>
        {grouped(permissions).map((group) => (
          <fieldset key={group.resource}>
            <legend>{group.name}</legend>
            {group.permissions.map((p) => (
              <Checkbox
                key={p.key}
                label={allows(p)}
                description={p.yours ? undefined : notYours}
                checked={chosen.includes(p.key)}
                disabled={!p.yours}
                onChange={(e) => set(p.key, e.currentTarget.checked)}
              />
            ))}
          </fieldset>
        ))}
      </div>
    </div>
  );
}
