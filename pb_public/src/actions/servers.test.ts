import { QueryClient } from '@tanstack/react-query';
import { beforeEach, describe, expect, it } from 'vitest';
import type { ApiError } from '@/api/error';
import type { Page, Server, ServerDetail, Tenant } from '@/api/views';
import { CommandHistory } from '@/stores/history';
import { answering, aServer } from '@/testing';
import { createServer, keyKeeper, type NewServer } from './createServer';
import { createTenant } from './createTenant';
import { confirms, deleteServer } from './deleteServer';
import { powerServer } from './powerServer';
import { MAX_COMMAND_BYTES, sendCommand } from './sendCommand';
import { firstTenant, rememberTenant } from './switchTenant';
import { updateServer } from './updateServer';

let client: QueryClient;
const key = ['org', 'owls', 'server', 'server000000001'];
const held = () => client.getQueryData<ServerDetail>(key);
beforeEach(() => {
  client = new QueryClient();
});

const content: NewServer = {
  name: 'Friday night',
  blueprint: 'demo',
  limits: { cpu_millicores: 1000, memory_mib: 1024, disk_gib: 4 },
  variables: {},
  start: true,
};

describe('createServer', () => {
  it('sends the form with its key and organisation, and holds the answer', async () => {
    const asked = answering({ status: 202, body: { server: aServer({ status: 'INSTALLING' }), job: null } });
    await createServer(client, 'owls', content, 'key-1');
    expect(asked[0]?.method).toBe('POST');
    expect(asked[0]?.url).toBe('/api/v1/servers');
    expect(asked[0]?.headers.get('Idempotency-Key')).toBe('key-1');
    expect(asked[0]?.headers.get('X-Tenant')).toBe('owls');
    expect(asked[0]?.body).toEqual(content);
    expect(held()?.status).toBe('INSTALLING');
    expect(client.getQueryState(key)?.dataUpdatedAt).toBe(0); // the page asks again: it may have changed meanwhile
  });
  it('keeps the key while the form stays, and changes it with the form', () => {
    const keyFor = keyKeeper();
    const first = keyFor(content);
    expect(first).toMatch(/^[0-9a-f]{32}$/);
    expect(keyFor({ ...content })).toBe(first);
    const second = keyFor({ ...content, name: 'Saturday' });
    expect(second).not.toBe(first);
    expect(keyFor({ ...content, name: 'Saturday' })).toBe(second);
  });
});

describe('powerServer', () => {
  it('shows what the panel answered', async () => {
    client.setQueryData(key, aServer());
    const asked = answering({
      status: 202,
      body: { server: aServer({ rev: 2, status: 'STOPPING' }), job: { id: 'j', rev: 1 } },
    });
    await powerServer(client, 'owls', 'server000000001', 'stop');
    expect(asked[0]?.body).toEqual({ action: 'stop' });
    expect(asked[0]?.headers.get('Idempotency-Key')).not.toBeNull();
    expect(held()?.status).toBe('STOPPING');
    expect(held()?.job?.id).toBe('j');
  });
  it('changes nothing when the panel says that it is not possible', async () => {
    client.setQueryData(key, aServer());
    answering({ status: 409, body: { code: 'action_not_possible', message: 'It is stopping already.' } });
    const error = await powerServer(client, 'owls', 'server000000001', 'stop').catch((e: ApiError) => e);
    expect((error as ApiError).message).toBe('It is stopping already.');
    expect(held()?.status).toBe('RUNNING');
  });
});

describe('updateServer', () => {
  it('renames at once and goes back when the panel refuses', async () => {
    client.setQueryData(key, aServer());
    answering({ status: 400, body: { data: { name: { code: 'name_invalid', message: 'No.' } } } });
    const asking = updateServer(client, 'owls', 'server000000001', { name: 'Saturday' });
    expect(held()?.name).toBe('Saturday');
    await expect(asking).rejects.toMatchObject({ fields: { name: { message: 'No.' } } });
    expect(held()?.name).toBe('Friday night');
  });
  it('waits with limits until the panel has them', async () => {
    client.setQueryData(key, aServer());
    const limits = { cpu_millicores: 2000, memory_mib: 2048, disk_gib: 8 };
    const asked = answering({ status: 202, body: { server: aServer({ rev: 2, limits }), job: null } });
    const asking = updateServer(client, 'owls', 'server000000001', { limits });
    expect(held()?.limits.memory_mib).toBe(1024);
    await asking;
    expect(asked[0]?.method).toBe('PATCH');
    expect(held()?.limits).toEqual(limits);
  });
});

describe('deleteServer', () => {
  it('wants the very name', () => {
    expect(confirms('Friday night', 'Friday night')).toBe(true);
    expect(confirms(' Friday night ', 'Friday night')).toBe(true);
    expect(confirms('friday night', 'Friday night')).toBe(false);
    expect(confirms('', '')).toBe(false);
  });
  it('leaves the row standing as being deleted', async () => {
    const list = ['org', 'owls', 'servers', {}];
    client.setQueryData<Page<Server>>(list, { items: [aServer()], page: 1, per_page: 50, total: 1 });
    const asked = answering({ status: 202, body: { server: aServer({ rev: 2, status: 'DELETING' }), job: null } });
    await deleteServer(client, 'owls', 'server000000001');
    expect(asked[0]?.method).toBe('DELETE');
    expect(client.getQueryData<Page<Server>>(list)?.items[0]?.status).toBe('DELETING');
  });
});

describe('createTenant', () => {
  const tenant = {
    id: 't1',
    name: 'Night Owls',
    slug: 'night-owls',
    status: 'ACTIVE',
    rev: 1,
    role: 'OWNER',
    role_name: 'Owner',
  };
  it('is there at once and is the one to come back to', async () => {
    client.setQueryData<Tenant[]>(['tenants'], []);
    const asked = answering({ status: 201, body: tenant });
    expect((await createTenant(client, ' Night Owls ', 'night-owls')).slug).toBe('night-owls');
    expect(asked[0]?.body).toEqual({ name: 'Night Owls', slug: 'night-owls' });
    expect(client.getQueryData<Tenant[]>(['tenants'])?.[0]).toEqual(tenant);
    expect(firstTenant([{ ...tenant, id: 'a', slug: 'another' }, tenant])).toEqual(tenant);
  });
  it('lets the panel make the address when there is none', async () => {
    const asked = answering({ status: 201, body: tenant });
    await createTenant(client, '夜', '');
    expect(asked[0]?.body).toEqual({ name: '夜' });
  });
});

describe('switchTenant', () => {
  const [a, b] = ['a', 'b'].map((slug) => ({ id: `id-${slug}`, slug }) as Tenant) as [Tenant, Tenant];
  it('comes back to the last one, and to the first when that is gone', () => {
    rememberTenant('b');
    expect(firstTenant([a, b])).toBe(b);
    expect(firstTenant([a])).toBe(a);
    expect(firstTenant([])).toBeUndefined();
  });
});

describe('sendCommand', () => {
  const link = (works = true) => {
    const sent: string[] = [];
    return { sent, send: (line: string) => works && sent.push(line) > 0 };
  };
  it('sends one line and remembers it', () => {
    const [to, history] = [link(), new CommandHistory()];
    expect(sendCommand(to, history, '  say hello\n')).toBe(true);
    expect(to.sent).toEqual(['say hello']);
    expect(history.older('')).toBe('say hello');
  });
  it('keeps in the field what could not be sent', () => {
    const history = new CommandHistory();
    expect(sendCommand(link(false), history, 'say hello')).toBe(false);
    expect(sendCommand(link(), history, '   ')).toBe(false);
    expect(sendCommand(link(), history, 'ä'.repeat(MAX_COMMAND_BYTES / 2 + 1))).toBe(false);
    expect(history.older('typed')).toBe('typed');
  });
});
