import { Button, TextInput } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useRef, useState } from 'react';
import { saveRole } from '@/actions/saveRole';
import type { PermissionInfo, Role } from '@/api/views';
import { presetFor, presetOf, presets } from '@/stores/roles';
import { checkName } from '@/stores/rules';
import { t } from '@/texts';
import { Card, Notice } from '../Card';
import { toastDone } from '../toast';
import { useAct } from '../useAct';
import { useFirstFault } from '../useFirstFault';
import { PermissionChoice } from './PermissionChoice';
import classes from './roles.module.css';

interface Props {
  org: string;
  /** The role that is changed; null for a new one. */
  edited: Role | null;
  permissions: PermissionInfo[];
  onClose: () => void;
}

/** Makes or changes a role of the organisation's own. */
export function RoleEditor({ org, edited: role, permissions, onClose }: Props) {
  const client = useQueryClient();
  const [name, setName] = useState(role?.name ?? '');
  const [about, setAbout] = useState(role?.description ?? '');
  const [chosen, setChosen] = useState<string[]>(role?.permissions ?? []);
  const [faults, setFaults] = useState({ name: '', description: '', permissions: '' });
  const first = useRef<HTMLInputElement>(null);
  useEffect(() => first.current?.focus(), []);
  const form = useFirstFault(faults);
  const { run, busy } = useAct(
    async () => {
      const found = checkName(name);
      setFaults({ name: found, description: '', permissions: '' });
      if (found) return;
      const saved = await saveRole(client, org, role?.id ?? '', { name, description: about, permissions: chosen });
      toastDone(t(role ? 'roles.saved' : 'roles.made', { name: saved.name }));
      onClose();
    },
    (error) => {
      const said = (field: string) => error.fields[field]?.message ?? '';
      const beyond = error.code === 'role_beyond_yours' ? error.message : '';
      const found = {
        name: said('name'),
        description: said('description'),
        permissions: said('permissions') || beyond,
      };
      setFaults(found);
      return Boolean(found.name || found.description || found.permissions);
    },
  );
  const start = (preset: (typeof presets)[number]) => {
    setChosen(presetFor(preset, permissions));
    const named = name.trim() === '' || presets.some((p) => t(p.name) === name);
    if (named) setName(t(preset.name));
  };
  const blind = !chosen.includes('server.read') && chosen.some((key) => /^(server|console)\./.test(key));
  const here = presetOf(chosen, permissions);
  return (
    <Card title={role ? t('roles.editTitle', { name: role.name }) : t('roles.makeTitle')}>
      <form
        ref={form}
        noValidate
        className={classes.editor}
        onSubmit={(e) => {
          e.preventDefault();
          void run();
        }}
      >
        {!role && (
          <fieldset className={classes.presets}>
            <legend>{t('roles.presets')}</legend>
            {presets.map((preset) => (
              <button
                key={preset.id}
                type="button"
                aria-pressed={preset === here}
                className={classes.preset}
                onClick={() => start(preset)}
              >
                <strong>{t(preset.name)}</strong>
                <span>{t(preset.lead)}</span>
              </button>
            ))}
          </fieldset>
        )}
        <div className={classes.names}>
          <TextInput
            ref={first}
            label={t('roles.name')}
            autoComplete="off"
            value={name}
            error={faults.name || undefined}
            onChange={(e) => setName(e.currentTarget.value)}
          />
          <TextInput
            label={t('roles.description')}
            description={t('roles.optional')}
            inputWrapperOrder={['label', 'input', 'description', 'error']}
            autoComplete="off"
            value={about}
            error={faults.description || undefined}
            onChange={(e) => setAbout(e.currentTarget.value)}
          />
        </div>
        <PermissionChoice
          title={t('roles.may')}
          permissions={permissions}
          chosen={chosen}
          notYours={t('roles.notYours')}
          onChange={setChosen}
        />
        {blind && <Notice tone="attention">{t('roles.needsSee')}</Notice>}
        {faults.permissions && (
          <div role="alert">
            <Notice tone="broken">{faults.permissions}</Notice>
          </div>
        )}
        <div className={classes.save}>
          <Button type="submit" loading={busy}>
            {role ? t('action.save') : t('roles.make')}
          </Button>
          <Button variant="subtle" onClick={onClose}>
            {t('action.cancel')}
          </Button>
        </div>
      </form>
    </Card>
  );
}
