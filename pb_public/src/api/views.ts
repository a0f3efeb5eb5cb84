// What the panel answers, as it is on the wire (INTERFACES "HTTP API"). Times are RFC 3339 or "".

/** Where a server is in its life. The panel's word; hooks/servers owns the table. */
export type Phase =
  | 'INSTALLING'
  | 'INSTALL_FAILED'
  | 'STOPPED'
  | 'STARTING'
  | 'RUNNING'
  | 'STOPPING'
  | 'CRASHED'
  | 'FAILED'
  | 'HIBERNATED'
  | 'TRANSFERRING'
  | 'RESTORING'
  | 'DELETING'
  | 'DELETED'
  | 'UNREACHABLE';

export const phases: Phase[] = [
  'RUNNING',
  'STARTING',
  'STOPPING',
  'STOPPED',
  'INSTALLING',
  'INSTALL_FAILED',
  'CRASHED',
  'FAILED',
  'UNREACHABLE',
];

export type PowerAction = 'start' | 'stop' | 'restart' | 'kill' | 'reinstall';

export interface Account {
  id: string;
  email: string;
  name: string;
  verified: boolean;
}

/** Somewhere that one is signed in. */
export interface Session {
  id: string;
  method: string;
  address: string;
  user_agent: string;
  created: string;
  last_used: string;
  expires_at: string;
  current: boolean;
}

/** What is shown of a second factor: one of the three. */
export type Shown =
  | { code: string }
  | { backup_code: string }
  | { passkey: { challenge: string; credential: unknown } };

export interface Passkey {
  id: string;
  name: string;
  created: string;
  /** "": never. */
  last_used: string;
}

/** What protects an account. */
export interface Factors {
  totp: boolean;
  /** How many are left. */
  backup_codes: number;
  passkeys: Passkey[];
  /** The address that passkeys are bound to; null: the panel has none. */
  passkeys_at: string | null;
  /** Until when the last proof of who one is counts; null: it is over. */
  proven_until: string | null;
}

/** An authenticator that waits for its first code. */
export interface TotpBegun {
  secret: string;
  uri: string;
  /** A picture, as a data: URL. */
  qr: string;
}

export interface Tenant {
  id: string;
  name: string;
  slug: string;
  status: string;
  /** Of one that is DELETING: when it is removed. */
  delete_at?: string | null;
  rev: number;
  /** Members need a second factor. */
  require_2fa?: boolean;
  role: string;
  role_name: string;
}

/** An archive of all that an organisation has. */
export interface Export {
  id: string;
  status: 'RUNNING' | 'READY' | 'FAILED';
  bytes: number;
  created: string;
  finished_at: string | null;
  expires_at: string;
  rev: number;
}

export interface Quota {
  servers: number;
  memory_mib: number;
  cpu_millicores: number;
  disk_mib: number;
}

export interface Current {
  tenant: Tenant;
  role: string;
  role_name: string;
  permissions: string[];
  /** null: all servers; else the ids this member is bound to. */
  servers: string[] | null;
  /** null: this member was let in for single servers only, and what the organisation has is not told. */
  quota: Quota | null;
  used: Quota | null;
}

/** A role that somebody has for one server. */
export interface Grant {
  server: string;
  server_name: string;
  role: string;
  role_name: string;
}

export interface Person {
  user: string;
  name: string;
  /** Only those who manage members are told. */
  email?: string;
  /** Id of the role for the whole organisation; "": let in for single servers only. */
  role: string;
  role_key: string;
  role_name: string;
  servers: Grant[];
  /** "" for the founder, and when nobody knows any more. */
  invited_by: string;
  joined_at: string;
}

/** An invitation that is open. Its token is in the mail alone. */
export interface Invite {
  id: string;
  email: string;
  role: string;
  role_name: string;
  /** "": for the whole organisation. */
  server: string;
  server_name: string;
  invited_by: string;
  expires_at: string;
  created: string;
}

/** An invitation as whoever has its link sees it. */
export interface InvitePreview {
  email: string;
  tenant_name: string;
  role_name: string;
  server_name: string;
  invited_by: string;
  expires_at: string;
}

export interface Role {
  id: string;
  key: string;
  name: string;
  description: string;
  /** The same in every organisation, and not to be changed. */
  system: boolean;
  permissions: string[];
  /** How many have it, also for single servers. */
  members: number;
  /** Whether the viewer may give it to others. */
  assignable: boolean;
}

export interface PermissionInfo {
  key: string;
  resource: string;
  description: string;
  /** Whether the viewer has it, and so may put it into roles. */
  yours: boolean;
}

export interface Roles {
  items: Role[];
  permissions: PermissionInfo[];
}

export interface Limits {
  cpu_millicores: number;
  memory_mib: number;
  disk_gib: number;
}

export interface Progress {
  step: string;
  percent: number;
  message: string;
}

export interface Port {
  name: string;
  host_ip: string;
  host_port: number;
  container_port: number;
  protocol: string;
}

export interface Job {
  id: string;
  kind: string;
  state: 'ready' | 'running' | 'waiting' | 'done' | 'dead' | 'cancelled' | 'superseded';
  subject: string;
  progress: Progress | null;
  error: string | { code?: string; message?: string } | null;
  rev: number;
}

export interface Server {
  id: string;
  tenant: string;
  rev: number;
  name: string;
  status: Phase;
  desired_state: string;
  suspended: boolean;
  install_status: string;
  problem: { code: string; message: string } | null;
  progress: Progress | null;
  node: { id: string; name: string; location: string; status: string } | null;
  blueprint: { id: string; slug: string; name: string; version: string; icon_url: string };
  variant: string;
  limits: Limits;
  address: string;
  ports: Port[] | null;
  /** null values are secrets that are set. */
  variables: Record<string, string | null> | null;
  last_start_at: string | null;
  last_exit_at: string | null;
  last_exit_code: number | null;
  created: string;
  /** Power actions (and "delete", "update") that are possible now. */
  actions: string[] | null;
}

export interface ServerDetail extends Server {
  install_log?: string;
  job?: Job | null;
}

export interface Page<T> {
  items: T[];
  page: number;
  per_page: number;
  total: number;
}

export interface Activity {
  id: string;
  kind: string;
  at: string;
  actor: { type: string; name: string } | null;
  payload: Record<string, unknown> | null;
}

export interface PlacementNode {
  id: string;
  name: string;
  location: string;
  fits: boolean;
  reason: string | { code?: string; message?: string } | null;
  free: { memory_mib: number; cpu_millicores: number; disk_mib: number };
}

export interface Placement {
  nodes: PlacementNode[];
  chosen: string;
}

export interface Accepted {
  server: Server;
  job: Job | null;
}

export type MetricsRange = '1h' | '24h';

/** What a server used, one column for each line: value i is of the step that begins at from_unix_s + i × step_s.
 * null: nothing is known of that step. */
export interface Metrics {
  range: MetricsRange;
  now_unix_s: number;
  from_unix_s: number;
  step_s: number;
  limits: { cpu_millicores: number; memory_bytes: number; disk_bytes: number };
  cpu_millicores: (number | null)[];
  memory_bytes: (number | null)[];
  net_in_bytes_per_s: (number | null)[];
  net_out_bytes_per_s: (number | null)[];
  disk_bytes: (number | null)[];
  running_ms: (number | null)[];
}

/** Something that one is told of. */
export interface Notice {
  id: string;
  kind: string;
  severity: 'info' | 'warning' | 'critical';
  subject: string;
  body: string;
  /** Id of the organisation; empty: about oneself. */
  tenant: string;
  org: string;
  server: string;
  link: string;
  at: string;
  read_at: string | null;
}

export interface NoticePage extends Page<Notice> {
  unread: number;
}

export type NoticeChannel = 'app' | 'email' | 'discord' | 'push';

export interface NoticeKind {
  kind: string;
  group: string;
  title: string;
  severity: string;
  channels: Record<NoticeChannel, boolean>;
  /** Channels that cannot be switched off. */
  locked: NoticeChannel[];
}

export interface NoticePrefs {
  items: NoticeKind[];
  channels: NoticeChannel[];
  email: string;
  email_confirmed: boolean;
}

/** A browser that push messages go to. */
export interface PushBrowser {
  id: string;
  /** The user agent that subscribed. */
  device: string;
  /** SHA-256 of the endpoint, hex, by which a browser knows itself. */
  endpoint_hash: string;
  created: string;
  /** The last message that was taken; null: none was. */
  used_at: string | null;
}

export interface PushBrowsers {
  /** The panel's public key, for PushManager.subscribe. */
  key: string;
  items: PushBrowser[];
}

/** A server that one hears nothing of. */
export interface MutedServer {
  server: string;
  tenant: string;
  created: string;
}

/** Something that an organisation's webhooks can be sent. */
export interface WebhookKind {
  kind: string;
  group: string;
  title: string;
  severity: string;
}

export interface Webhooks {
  items: Webhook[];
  /** Of an organisation: what can be chosen. */
  kinds?: WebhookKind[];
}

/** Its URL is not shown again. */
export interface Webhook {
  id: string;
  kind: string;
  name: string;
  /** Why nothing is sent there any more; empty while it works. */
  problem: string;
  created: string;
  used_at: string | null;
  /** Of an organisation's: whether a kind is sent there. */
  kinds?: Record<string, boolean>;
}

/** An API key, without its secret. */
export interface ApiKey {
  id: string;
  name: string;
  /** How the key begins. */
  hint: string;
  user: string;
  user_name: string;
  permissions: string[];
  /** Ids; empty: all. */
  servers: string[];
  /** CIDRs; empty: from anywhere. */
  addresses: string[];
  created: string;
  /** "" when it does not. */
  expires_at: string;
  /** "" when it was not used yet. */
  last_used: string;
  last_address: string;
  expired: boolean;
}

export interface ApiKeys {
  items: ApiKey[];
  permissions: PermissionInfo[];
}

/** The one answer that holds the key itself. */
export interface MadeKey extends ApiKey {
  secret: string;
}

/** A row of the audit log. */
export interface AuditEntry {
  seq: number;
  at: string;
  actor: string;
  actor_type: string;
  actor_name: string;
  action: string;
  resource_type: string;
  resource: string;
  metadata: unknown;
  address: string;
  user_agent: string;
  request_id: string;
}
