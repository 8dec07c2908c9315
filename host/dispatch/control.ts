/** Answers the control subjects with handlers, one for each verb of the table. */
import { headers, nuid } from '@nats-io/nats-core';
import type { Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/nats-core';
import { z } from 'zod';
import { HatchError, toHatchError } from '../base/errors.ts';
import { controlApi, controlSubjectOf, hostHeader, tenantVerbs } from './control-api.ts';
import type { ControlAnswer, ControlRequest, ControlScope, ControlVerb } from './control-api.ts';
import { queueGroup } from './dispatcher.ts';
import type { DispatchLog } from './dispatcher.ts';
import { errorEnvelope, setErrorHeaders } from './reply.ts';

export type ControlHandlers = {
  [V in ControlVerb]: (
    request: ControlRequest<V>,
    scope: ControlScope,
  ) => Promise<ControlAnswer<V>> | ControlAnswer<V>;
};

export interface ControlServerOptions {
  connection: NatsConnection;
  hostName: string;
  handlers: ControlHandlers;
  log: DispatchLog;
}

const underWayMax = 64;

export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #underWay = new Set<Promise<void>>();
  #subscriptions: Subscription[] = [];

  constructor(options: ControlServerOptions) {
    this.#options = options;
  }

  start(): void {
    const verbs = Object.keys(controlApi) as ControlVerb[];
    this.#subscriptions = [
      ...verbs.map((verb) => this.#subscribe(verb, undefined)),
      ...verbs.filter((verb) => tenantVerbs.has(verb)).map((verb) => this.#subscribe(verb, '*')),
    ];
  }

  /** Takes no new requests and waits for those under way. */
  async stop(): Promise<void> {
    await Promise.allSettled(this.#subscriptions.map((subscription) => subscription.drain()));
    await Promise.all(this.#underWay);
    if (!this.#options.connection.isClosed()) await this.#options.connection.flush();
  }

  #subscribe<V extends ControlVerb>(verb: V, tenant: '*' | undefined): Subscription {
    const { connection, handlers, log } = this.#options;
    const group = controlApi[verb].audience === 'one' ? { queue: queueGroup } : {};
    return connection.subscribe(controlSubjectOf(verb, { tenant }), {
      ...group,
      callback: (error, message) => {
        if (error !== null) {
          log.warn({ verb, error: error.message }, 'Cannot receive control requests');
          return;
        }
        const scope = { tenant: tenant === undefined ? undefined : message.subject.split('.')[2] };
        const answer = this.#answer({ verb, scope, message }, handlers[verb]);
        const work = answer.finally(() => this.#underWay.delete(work));
        this.#underWay.add(work);
      },
    });
  }

  async #answer<V extends ControlVerb>(
    { verb, scope, message }: { verb: V; scope: ControlScope; message: Msg },
    handler: ControlHandlers[V],
  ): Promise<void> {
    const { connection, hostName, log } = this.#options;
    const requestId = nuid.next();
    const answerHeaders = headers();
    answerHeaders.set(hostHeader, hostName);
    try {
      if (this.#underWay.size >= underWayMax) {
        throw new HatchError('host.busy', `Cannot take "${verb}": try again in a moment`);
      }
      const body = JSON.stringify(await handler(readRequest(verb, message), scope));
      const limit = connection.info?.max_payload ?? Infinity;
      if (Buffer.byteLength(body) + 256 > limit) {
        throw new HatchError('request.too_large', `Cannot answer "${verb}": ask for less`);
      }
      message.respond(body, { headers: answerHeaders });
    } catch (cause) {
      const error = toHatchError(cause);
      if (error.fault === 'host') {
        log.warn({ verb, requestId, code: error.code, stack: error.stack }, error.message);
      }
      respondError(message, { error, requestId, answerHeaders });
    }
  }
}

function readRequest<V extends ControlVerb>(verb: V, message: Msg): ControlRequest<V> {
  let json: unknown;
  try {
    json = message.data.length === 0 ? {} : message.json();
  } catch (cause) {
    throw new HatchError('request.invalid', `Cannot read "${verb}": no JSON`, { cause });
  }
  const parsed = controlApi[verb].request.safeParse(json);
  if (parsed.success) return parsed.data as ControlRequest<V>;
  const problems = z.prettifyError(parsed.error).replaceAll(/\s*\n\s*/g, ' ');
  throw new HatchError('request.invalid', `Cannot accept "${verb}": ${problems}`);
}

function respondError(
  message: Msg,
  {
    error,
    requestId,
    answerHeaders,
  }: {
    error: HatchError;
    requestId: string;
    answerHeaders: MsgHdrs;
  },
): void {
  setErrorHeaders(answerHeaders, error);
  try {
    message.respond(errorEnvelope(error, requestId), { headers: answerHeaders });
  } catch {
    // The connection is closed: there is nobody left to tell.
  }
}
