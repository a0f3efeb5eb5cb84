import { Button } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { giveAccess, takeAccess } from '@/actions/setAccess';
import type { Grant, Person, Role } from '@/api/views';
import { t } from '@/texts';
import { Confirm } from '../Confirm';
import { toastDone, toastError } from '../toast';
import { useAct } from '../useAct';
import { Face } from './Face';
import classes from './people.module.css';
import { RoleSelect } from './RoleSelect';

interface Let {
  person: Person;
  grant: Grant;
}

interface Props {
  org: string;
  server: { id: string; name: string };
  people: Person[];
  /** Everybody of the organisation: who has a role in all of it besides. */
  members: Person[];
  roles: Role[];
}

/** Who was let in for one server, and with which role. */
export function AccessList({ org, server, people, members, roles }: Props) {
  const client = useQueryClient();
  const [asking, setAsking] = useState<Let | null>(null);
  const [open, setOpen] = useState(false);
  const { run, busy } = useAct(async ({ person }: Let) => {
    await takeAccess(client, org, server.id, person.user);
    setOpen(false);
    toastDone(t('access.taken', { name: person.name, server: server.name }));
  });
  const all = people.flatMap((person) =>
    person.servers.filter((grant) => grant.server === server.id).map((grant) => ({ person, grant })),
  );
  const wide = members.find((one) => one.user === asking?.person.user)?.role_name ?? '';
  const names = { name: asking?.person.name ?? '', role: asking?.grant.role_name ?? '', server: server.name };
  return (
    <>
      <ul className={classes.list}>
        {all.map((one) => (
          <Row
            key={one.person.user}
            {...{ org, roles, one }}
            server={server.id}
            onTake={() => {
              setAsking(one);
              setOpen(true);
            }}
          />
        ))}
      </ul>
      <Confirm
        opened={open}
        onClose={() => setOpen(false)}
        title={t('access.takeTitle', names)}
        confirm={t('access.take')}
        busy={busy}
        onConfirm={() => asking && void run(asking)}
      >
        {t('access.takeWhat', names)} {wide && t('access.takeKeeps', { role: wide })}
      </Confirm>
    </>
  );
}

function Row({
  org,
  server,
  one: { person, grant },
  roles,
  onTake,
}: {
  org: string;
  server: string;
  one: Let;
  roles: Role[];
  onTake: () => void;
}) {
  const client = useQueryClient();
  const { name, user } = person;
  const { run, busy } = useAct(async (to: string) => {
    const before = grant.role;
    await giveAccess(client, org, server, user, to);
    toastDone(t('access.changed', { name, role: roles.find((r) => r.id === to)?.name ?? '' }), () => {
      giveAccess(client, org, server, user, before).catch(toastError);
    });
  });
  const reach = roles.some((r) => r.id === grant.role && r.assignable);
  return (
    <li className={classes.row} data-testid="access">
      <Face name={name} />
      <div className={classes.who}>
        <strong>{name}</strong>
        {person.email && person.email !== name && <p>{person.email}</p>}
      </div>
      {reach ? (
        <div className={classes.role}>
          <RoleSelect
            bare
            label={t('access.role', { name })}
            roles={roles}
            value={grant.role}
            disabled={busy}
            onChange={(to) => void run(to)}
          />
        </div>
      ) : (
        <div className={classes.held}>
          {grant.role_name}
          <p>{t('members.beyond')}</p>
        </div>
      )}
      {reach && (
        <div className={classes.end}>
          <Button
            variant="subtle"
            color="red"
            size="compact-sm"
            aria-label={t('access.takeOf', { name })}
            onClick={onTake}
          >
            {t('access.take')}
          </Button>
        </div>
      )}
    </li>
  );
}
