import { createRootRouteWithContext, Outlet } from '@tanstack/react-router';
import type { AppContext } from '@/stores/context';

export const Route = createRootRouteWithContext<AppContext>()({ component: Outlet });
