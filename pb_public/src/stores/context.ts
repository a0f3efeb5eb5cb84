// What the router hands to every page.
import type { QueryClient } from '@tanstack/react-query';

export interface AppContext {
  client: QueryClient;
}
