import { Button, Skeleton } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { removeMember, setMemberRole } from '@/actions/changeMember';
import type { Person, Role } from '@/api/views';
import { roleName } from '@/stores/roles';
import { t } from '@/texts';
import { Confirm } from '../Confirm';
import { ago, exact } from '../format';
import { toastDone, toastError } from '../toast';
import { useAct } from '../useAct';
import { Face } from './Face';
import classes from './people.module.css';
import { RoleSelect } from './RoleSelect';

interface Props {
  org: string;
  people: Person[];
  roles: Role[];
  /** Id of the viewer's account. */
  me: string;
  update: boolean;
  remove: boolean;
}

/** Who is in the organisation, with what may be changed of them. */
export function MemberList({ org, people, roles, me, update, remove }: Props) {
  const client = useQueryClient();
  const [asking, setAsking] = useState<Person | null>(null);
  const [open, setOpen] = useState(false);
  const { run, busy } = useAct(async (person: Person) => {
    await removeMember(client, org, person.user);
    setOpen(false);
    toastDone(t('members.removed', { name: person.name }));
  });
  return (
    <>
      <ul className={classes.list}>
        {people.map((person) => (
          <Row
            key={person.user}
            {...{ org, person, roles, update, remove }}
            you={person.user === me}
            onRemove={() => {
              setAsking(person);
              setOpen(true);
            }}
          />
        ))}
      </ul>
      <Confirm
        opened={open}
        onClose={() => setOpen(false)}
        title={t('members.removeTitle', { name: asking?.name ?? '' })}
        confirm={t('members.removeShort')}
        busy={busy}
        onConfirm={() => asking && void run(asking)}
      >
        {t('members.removeWhat', { name: asking?.name ?? '' })}
      </Confirm>
    </>
  );
}

interface RowProps extends Omit<Props, 'people' | 'me'> {
  person: Person;
  you: boolean;
  onRemove: () => void;
}

function Row({ org, person, roles, you, update, remove, onRemove }: RowProps) {
  const client = useQueryClient();
  const { run, busy } = useAct(async (to: string) => {
    const [before, next] = [person.role, to].map((id) => roles.find((r) => r.id === id) ?? null);
    await setMemberRole(client, org, person.user, next ?? null);
    const { name } = person;
    toastDone(next ? t('members.changed', { name, role: next.name }) : t('members.changedSingle', { name }), () => {
      setMemberRole(client, org, person.user, before ?? null).catch(toastError);
    });
  });
  const owner = person.role_key === 'OWNER';
  const reach = person.role === '' || roles.some((r) => r.id === person.role && r.assignable);
  const beyond = update && !you && !owner && !reach;
  return (
    <li className={classes.row} data-testid="member">
      <Face name={person.name} quiet={person.role === ''} />
      <div className={classes.who}>
        <strong>{person.name}</strong>
        {you && <span className={classes.tag}>{t('members.you')}</span>}
        {person.email && person.email !== person.name && <p>{person.email}</p>}
        <p title={exact(person.joined_at)}>
          {person.invited_by
            ? t('members.joinedBy', { ago: ago(person.joined_at), name: person.invited_by })
            : t('members.joined', { ago: ago(person.joined_at) })}
        </p>
      </div>
      {update && !you && !owner && reach ? (
        <div className={classes.role}>
          <RoleSelect
            bare
            single
            label={t('members.role', { name: person.name })}
            roles={roles}
            value={person.role}
            disabled={busy}
            onChange={(to) => void run(to)}
          />
        </div>
      ) : (
        <div className={classes.held}>
          {roleName(person)}
          {beyond && <p>{t('members.beyond')}</p>}
          {owner && remove && !you && <p>{t('members.ownerStays')}</p>}
        </div>
      )}
      {remove && !you && !owner && !beyond && (
        <div className={classes.end}>
          <Button
            variant="subtle"
            color="red"
            size="compact-sm"
            aria-label={t('members.remove', { name: person.name })}
            onClick={onRemove}
          >
            {t('members.removeShort')}
          </Button>
        </div>
      )}
      {person.servers.length > 0 ? (
        <ul className={classes.grants} aria-label={t('members.grants', { name: person.name })}>
          {person.servers.map((grant) => (
            <li key={grant.server}>
              <Link to="/o/$org/servers/$server" params={{ org, server: grant.server }}>
                {t('members.grant', { server: grant.server_name, role: grant.role_name })}
              </Link>
            </li>
          ))}
        </ul>
      ) : (
        person.role === '' && <p className={`${classes.grants} ${classes.hint}`}>{t('members.none')}</p>
      )}
    </li>
  );
}

/** The shape of the list while it is fetched. */
export function PeopleLoading({ rows = 3 }: { rows?: number }) {
  return (
    <div aria-busy="true" className={classes.loading}>
      {Array.from({ length: rows }, (_, i) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are all the same
        <Skeleton key={i} height={52} />
      ))}
    </div>
  );
}
