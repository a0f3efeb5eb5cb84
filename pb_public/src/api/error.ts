// The one shape every failure has once it leaves src/api.
import { ClientResponseError } from 'pocketbase';
import { t } from '@/texts';

export interface FieldError {
  code: string;
  message: string;
}

/** A request that did not succeed. `message` is a sentence for the customer. */
export class ApiError extends Error {
  constructor(
    /** HTTP status; 0 when there was no answer. */
    readonly status: number,
    /** For machines: the server's code, or "network", "timeout", "unexpected". */
    readonly code: string,
    message: string,
    /** By field, in the server's names ("name", "limits.memory_mib", "variables.KEY"). */
    readonly fields: Record<string, FieldError> = {},
    readonly requestId = '',
  ) {
    super(message);
    this.name = 'ApiError';
  }

  /** Whether the same request may succeed a moment later. */
  get retryable(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 502;
  }
}

/** Reads an error body of the panel or of PocketBase. Bodies of other shapes become a written sentence. */
export function fromBody(status: number, body: unknown, requestId = ''): ApiError {
  const raw = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>;
  const code = typeof raw.code === 'string' ? raw.code : byStatus(status);
  const id = typeof raw.request_id === 'string' ? raw.request_id : requestId;
  const found = fields(raw.data ?? {});
  // PocketBase's own 400 that names no field says nothing that helps ("Failed to create record.").
  const mute = status === 400 && typeof raw.code !== 'string' && Object.keys(found).length === 0;
  return new ApiError(status, code, mute ? t('error.refused') : sentence(status, code, raw.message), found, id);
}

function byStatus(status: number): string {
  const names: Record<number, string> = { 401: 'unauthenticated', 403: 'forbidden', 404: 'not_found', 429: 'too_many' };
  if (status >= 502 && status <= 504) return 'away'; // what stands before the panel says so; the panel's own has a code
  return names[status] ?? (status >= 500 ? 'internal' : 'invalid_input');
}

function sentence(status: number, code: string, message: unknown): string {
  if (status === 429 && code !== 'too_soon') return t('error.tooMany');
  if (status === 401 && code !== 'checkpoint_ended') return t('error.unauthenticated');
  if (typeof message === 'string' && message !== '' && status < 500) return message;
  return code === 'away' ? t('error.away') : t('error.internal');
}

function fields(data: unknown, prefix = ''): Record<string, FieldError> {
  const found: Record<string, FieldError> = {};
  if (typeof data !== 'object' || data === null) return found;
  for (const [key, value] of Object.entries(data)) {
    if (typeof value !== 'object' || value === null) continue;
    const one = value as Record<string, unknown>;
    if (typeof one.message === 'string') {
      found[prefix + key] = { code: String(one.code ?? ''), message: one.message };
    } else {
      Object.assign(found, fields(one, `${prefix}${key}.`)); // nested, as in {limits: {memory_mib: …}}
    }
  }
  return found;
}

/** Any thrown thing as an ApiError. */
export function asApiError(cause: unknown): ApiError {
  if (cause instanceof ApiError) return cause;
  if (cause instanceof ClientResponseError) {
    if (cause.status === 0) return network(cause.isAbort);
    return fromBody(cause.status, cause.response);
  }
  if (cause instanceof DOMException && cause.name === 'TimeoutError') return network(true);
  if (cause instanceof TypeError) return network(false); // fetch's word for "no connection"
  return new ApiError(0, 'unexpected', t('error.unexpected'));
}

function network(timedOut: boolean): ApiError {
  return timedOut ? new ApiError(0, 'timeout', t('error.timeout')) : new ApiError(0, 'network', t('error.network'));
}
