// What tests of whole pages start from: the app at an address, before a panel that is made up.
import { MantineProvider } from '@mantine/core';
import { QueryClientProvider } from '@tanstack/react-query';
import { createMemoryHistory, RouterProvider } from '@tanstack/react-router';
import { render } from '@testing-library/react';
import { vi } from 'vitest';
import { pb } from '@/api/client';
import type { Current } from '@/api/views';
import { newRouter } from '@/router';
import { newQueryClient } from '@/stores/queries';
import { type Asked, aMember, aServer, aToken, aUser, someRoles } from '@/testing';
import { theme } from '@/ui/theme';

/** A refusal, or another status than 200. */
export class Answer {
  constructor(
    readonly status: number,
    readonly body?: unknown,
  ) {}
}

type Routes = Record<string, unknown>;

/** Answers "GET tenants/owls/members" and the like; what is not in the list is not there. Remembers what was asked. */
export function aPanel(routes: Routes): { asked: Asked[]; routes: Routes; wrote: () => string[] } {
  const asked: Asked[] = [];
  vi.stubGlobal('fetch', async (url: string | URL, init: RequestInit = {}) => {
    const method = init.method ?? 'GET';
    const path = String(url).replace(/^.*\/api\/(v1\/)?/, '');
    const body = typeof init.body === 'string' && init.body ? JSON.parse(init.body) : undefined;
    asked.push({ url: path, method, headers: new Headers(init.headers), body });
    const found = routes[`${method} ${path}`] ?? routes[`${method} ${path.split('?')[0]}`];
    const missing = new Answer(404, { code: 'not_found', message: 'There is no such thing.' });
    const answer = found instanceof Answer ? found : found === undefined ? missing : new Answer(200, found);
    const text = answer.status === 204 ? null : JSON.stringify(answer.body ?? {});
    return new Response(text, { status: answer.status, headers: { 'Content-Type': 'application/json' } });
  });
  const wrote = () => asked.filter((one) => one.method !== 'GET').map((one) => `${one.method} ${one.url}`);
  return { asked, routes, wrote };
}

const everything = someRoles().permissions.map((p) => p.key);

/** What the organisation "owls" answers to somebody in it. */
export function anOrganisation(differs: Partial<Current> = {}): Routes {
  const tenant = { id: 't1', name: 'Night Owls', slug: 'owls', status: 'ACTIVE', rev: 1 };
  const as = { role: 'OWNER', role_name: 'Owner', ...tenant };
  const quota = { servers: 5, memory_mib: 8192, cpu_millicores: 4000, disk_mib: 10_240 };
  const permissions = [...everything, 'tenant.update', 'tenant.transfer', 'member.remove'];
  return {
    'GET tenants': { items: [as] },
    'GET account': { id: aUser.id, email: aUser.email, name: aUser.name, verified: true },
    'GET tenants/current': {
      tenant: as,
      role: 'OWNER',
      role_name: 'Owner',
      permissions,
      servers: null,
      quota,
      used: quota,
      ...differs,
    },
    'GET tenants/owls/members': {
      items: [
        aMember({ user: aUser.id, name: 'Ana', email: aUser.email, role: 'role00000000001', role_key: 'OWNER' }),
        aMember(),
      ],
    },
    'GET tenants/owls/roles': someRoles(),
    'GET tenants/owls/invites': { items: [] },
    'GET servers': { items: [aServer()], page: 1, per_page: 200, total: 1 },
    'GET servers/server000000001': aServer(),
    'GET servers/server000000001/access': { items: [] },
  };
}

export const signedIn = (): void => pb.authStore.save(aToken(), aUser as never);

/** Draws the app at an address of it. Answers the router, whose state says where one is. */
export function showPage(path: string) {
  vi.spyOn(pb.realtime, 'subscribe').mockResolvedValue(async () => undefined);
  vi.spyOn(window, 'scrollTo').mockImplementation(() => undefined);
  const client = newQueryClient();
  client.setDefaultOptions({ queries: { ...client.getDefaultOptions().queries, retry: false } });
  const router = newRouter(client);
  router.update({ ...router.options, history: createMemoryHistory({ initialEntries: [path] }) } as never);
  render(
    <MantineProvider env="test" theme={theme}>
      <QueryClientProvider client={client}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </MantineProvider>,
  );
  return { router, client, at: () => router.state.location.href };
}
