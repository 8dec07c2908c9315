/** When to ask a registry again, and how long to wait before. */
import { setTimeout } from 'node:timers/promises';
import { HatchError, messageOf } from '../../base/errors.ts';

export interface RetryPolicy {
  attemptsMax: number;
  /** Doubled for each further attempt, with a random part so that hosts do not march in step. */
  firstWaitMs: number;
  waitMaxMs: number;
}

export const defaultRetryPolicy: RetryPolicy = {
  attemptsMax: 6,
  firstWaitMs: 250,
  waitMaxMs: 60_000,
};

/** A failure that may pass: a broken connection, a stall, an overloaded registry. */
export class PassingFailure extends Error {
  override readonly name = 'PassingFailure';
  /** What the registry asked for. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    options: { cause?: unknown; retryAfterMs?: number | undefined } = {},
  ) {
    super(message, { cause: options.cause });
    this.retryAfterMs = options.retryAfterMs;
  }
}

/**
 * Waits before attempt number `attempt + 1`, or throws `image.registry_failed` when `attempt` was
 * the last one or the registry wants to be left alone for longer than we wait.
 */
export async function waitForNext(options: {
  what: string;
  attempt: number;
  failure: PassingFailure;
  policy: RetryPolicy;
  signal: AbortSignal | undefined;
}): Promise<void> {
  const { what, attempt, failure, policy, signal } = options;
  const { retryAfterMs } = failure;
  if (attempt >= policy.attemptsMax)
    throw new HatchError(
      'image.registry_failed',
      `Cannot ${what}: ${failure.message}, ${attempt} times; try again later`,
      { cause: failure, details: { attempts: attempt } },
    );
  if (retryAfterMs !== undefined && retryAfterMs > policy.waitMaxMs)
    throw new HatchError(
      'image.registry_failed',
      `Cannot ${what}: ${failure.message}, and is to be asked again in ` +
        `${Math.ceil(retryAfterMs / 1000)} s; do so then, or log in where a quota is used up`,
      { cause: failure, details: { retryAfterMs } },
    );
  await setTimeout(waitMs(attempt, retryAfterMs, policy), undefined, { signal });
}

/** Runs `work` until it does not end with a passing failure. */
export async function retrying<T>(
  options: { what: string; policy: RetryPolicy; signal: AbortSignal | undefined },
  work: () => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof PassingFailure)) throw error;
      await waitForNext({ ...options, attempt, failure: error });
    }
  }
}

export function waitMs(
  attempt: number,
  retryAfterMs: number | undefined,
  { firstWaitMs, waitMaxMs }: RetryPolicy,
): number {
  const wait = Math.min(firstWaitMs * 2 ** (attempt - 1), waitMaxMs);
  const spread = wait / 2 + (wait / 2) * Math.random();
  return Math.max(spread, retryAfterMs ?? 0);
}

/** `Retry-After`: seconds or a date. */
export function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000;
  const atMs = Date.parse(header);
  return Number.isNaN(atMs) ? undefined : Math.max(atMs - nowMs, 0);
}

export function isPassingStatus(status: number): boolean {
  return status === 408 || status === 429 || (status >= 500 && status !== 501 && status !== 505);
}

const lastingErrors = new Set([
  'ENOTFOUND',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'ERR_INVALID_URL',
  'EPROTO',
  'ERR_SSL_WRONG_VERSION_NUMBER',
]);

/** What a connection failed with, as an error that says whether to try again. */
export function connectionFailure(host: string, cause: unknown): Error {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const isCertificate = /CERT|SELF_SIGNED|UNABLE_TO_/.test(code);
  if (!isCertificate && !lastingErrors.has(code))
    return new PassingFailure(`the connection to "${host}" failed (${messageOf(cause)})`, {
      cause,
    });
  const help = isCertificate
    ? 'name its certificate authority with "registryCaFile"'
    : 'check the name, and whether it speaks TLS: plain HTTP has to be asked for';
  return new HatchError(
    'image.registry_failed',
    `Cannot reach registry "${host}": ${messageOf(cause)}; ${help}`,
    { cause },
  );
}
