/** Asks the hosts: one for all, or each for itself. */
import { errors } from '@nats-io/nats-core';
import type { Msg, NatsConnection, QueuedIterator } from '@nats-io/nats-core';
import { z } from 'zod';
import { errorCodes, HatchError } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { natsRefusal } from '../function/nats-refusal.ts';
import { controlApi, controlSubjectOf, hostHeader } from './control-api.ts';
import type { AllVerb, ControlReply, ControlRequest, ControlVerb, OneVerb } from './control-api.ts';

/** What one of several hosts answered. */
export type HostAnswer<V extends ControlVerb> =
  | { host: string; reply: ControlReply<V> }
  | { host: string; error: HatchError };

export class ControlClient {
  readonly #connection: NatsConnection;
  readonly #tenant: string | undefined;

  /** @param options.tenant to speak for that one only */
  constructor(connection: NatsConnection, { tenant }: { tenant?: string | undefined } = {}) {
    this.#connection = connection;
    this.#tenant = tenant;
  }

  /** @throws HatchError what the host answered, or `host.nats_unavailable` when there is no host */
  async ask<V extends OneVerb>(
    verb: V,
    request: ControlRequest<V>,
    options: { timeoutMs: number } = { timeoutMs: 60_000 },
  ): Promise<ControlReply<V>> {
    const answers = this.#collect(verb, request, { ...options, isEnough: () => true });
    const [message] = await answers;
    if (message === undefined) throw noAnswer(verb, options.timeoutMs);
    return readReply(verb, message);
  }

  /**
   * The answers of all hosts, until none has come for `quietMs` after the first; with `hosts` until
   * so many have answered, however long each takes.
   * @throws HatchError `host.nats_unavailable` when there is no host
   */
  async askAll<V extends AllVerb>(
    verb: V,
    request: ControlRequest<V>,
    options: { timeoutMs: number } & ({ quietMs: number } | { hosts: number }) = {
      timeoutMs: 30_000,
      quietMs: 150,
    },
  ): Promise<HostAnswer<V>[]> {
    let missing = 'hosts' in options ? options.hosts : Infinity;
    const isEnough = () => --missing <= 0;
    const messages = await this.#collect(verb, request, { ...options, isEnough });
    if (messages.length === 0) throw noAnswer(verb, options.timeoutMs);
    return messages.map((message) => readAnswer(verb, message));
  }

  /**
   * The first good answer of any host.
   * @throws HatchError what the hosts answered when none is good
   */
  async askAny<V extends AllVerb>(
    verb: V,
    request: ControlRequest<V>,
    options: { timeoutMs: number; quietMs: number } = { timeoutMs: 10_000, quietMs: 150 },
  ): Promise<{ host: string; reply: ControlReply<V> }> {
    const isEnough = (message: Msg) => !isError(message);
    const messages = await this.#collect(verb, request, { ...options, isEnough });
    const last = messages.at(-1);
    if (last === undefined) throw noAnswer(verb, options.timeoutMs);
    return { host: hostOf(last), reply: readReply(verb, last) };
  }

  async #collect(
    verb: ControlVerb,
    request: unknown,
    options: { timeoutMs: number; quietMs?: number; isEnough: (message: Msg) => boolean },
  ): Promise<Msg[]> {
    const { timeoutMs, quietMs, isEnough } = options;
    const messages: Msg[] = [];
    let quiet: NodeJS.Timeout | undefined;
    try {
      const answers = await this.#connection.requestMany(
        controlSubjectOf(verb, { tenant: this.#tenant }),
        JSON.stringify(request),
        { strategy: 'timer', maxWait: timeoutMs },
      );
      for await (const message of answers) {
        messages.push(message);
        if (isEnough(message)) break;
        if (quietMs === undefined) continue;
        clearTimeout(quiet);
        quiet = setTimeout(() => (answers as QueuedIterator<Msg>).stop(), quietMs);
      }
    } catch (error) {
      if (error instanceof errors.NoRespondersError) throw noHost();
      throw natsRefusal(error) ?? error;
    } finally {
      clearTimeout(quiet);
    }
    return messages;
  }
}

/**
 * The error that a reply of a host is, be it of a call or a control request; undefined when it is
 * none.
 */
export function errorIn(message: Msg): HatchError | undefined {
  if (!isError(message)) return undefined;
  const parsed = envelopeSchema.safeParse(parseJson(message));
  if (!parsed.success) {
    const text = message.headers?.get('Nats-Service-Error') ?? 'an error without a message';
    return new HatchError('internal.bug', text);
  }
  const { code, message: text, requestId, details } = parsed.data.error;
  return new HatchError(code, text, { details: { ...details, requestId } });
}

const envelopeSchema = z.object({
  error: z.object({
    code: z.custom<ErrorCode>(
      (value) => typeof value === 'string' && Object.hasOwn(errorCodes, value),
    ),
    message: z.string(),
    requestId: z.string(),
    details: z.record(z.string(), z.unknown()).optional(),
  }),
});

function isError(message: Msg): boolean {
  return message.headers?.has('Nats-Service-Error-Code') === true;
}

function hostOf(message: Msg): string {
  return message.headers?.get(hostHeader) ?? '';
}

function readAnswer<V extends ControlVerb>(verb: V, message: Msg): HostAnswer<V> {
  const host = hostOf(message);
  try {
    return { host, reply: readReply(verb, message) };
  } catch (error) {
    if (error instanceof HatchError) return { host, error };
    throw error;
  }
}

function readReply<V extends ControlVerb>(verb: V, message: Msg): ControlReply<V> {
  const error = errorIn(message);
  if (error !== undefined) throw error;
  const parsed = controlApi[verb].reply.safeParse(parseJson(message));
  if (parsed.success) return parsed.data as ControlReply<V>;
  throw new HatchError(
    'internal.bug',
    `Cannot understand host "${hostOf(message)}" on "${verb}": is it of this version?`,
    { cause: parsed.error },
  );
}

function parseJson(message: Msg): unknown {
  try {
    return message.json();
  } catch {
    return undefined;
  }
}

function noHost(): HatchError {
  return new HatchError(
    'host.nats_unavailable',
    'Cannot reach a host: none is connected to this NATS server, start one with "hatch up"',
  );
}

function noAnswer(verb: string, timeoutMs: number): HatchError {
  const message = `Cannot do "${verb}": no host answered in ${timeoutMs} ms`;
  return new HatchError('host.nats_unavailable', message);
}
