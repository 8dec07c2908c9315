import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import { errors, headers, nuid } from '@nats-io/nats-core';
import type { Msg, MsgHdrs, NatsConnection } from '@nats-io/nats-core';
import { HatchError, messageOf } from '../../base/errors.ts';
import { ControlClient, errorIn } from '../../dispatch/control-client.ts';
import { natsRefusal } from '../../function/nats-refusal.ts';
import { functionSubject, parseFunctionSubject } from '../../function/record.ts';
import { formatDuration } from '../../telemetry/format.ts';
import { count, required, UsageError } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';

/** The longest time limit that a function may have, and something for the way. */
const waitMsMax = 900_000 + 10_000;
const waySlackMs = 5000;
/** After Ctrl-C the hosts have so long to answer, from the first one on the second. */
const cancelTimes = { timeoutMs: 1000, quietMs: 150 };
const requestIdHeader = 'Hatch-Request-Id';

export const invokeCommand: Command = {
  name: 'invoke',
  usage: 'NAME[.VERSION-OR-ALIAS] [PAYLOAD | - | @FILE]',
  summary: 'Call a function: the result on stdout, how it went on stderr; Ctrl-C cancels the call',
  examples: [
    `hatch invoke hello '{"name":"world"}'`,
    'cat page.md | hatch invoke markdown.live -',
    'hatch invoke resize @picture.png --header tenant=acme --timeout 2000',
  ],
  options: {
    header: {
      type: 'string',
      multiple: true,
      value: 'KEY=VALUE',
      help: 'header for the function; may be given several times',
    },
    timeout: { type: 'string', value: 'MS', help: 'less time than the function allows itself' },
  },
  positionals: { min: 1, max: 2 },
  async run(context) {
    const { output, positionals, values, signal } = context;
    const subject = subjectOf(required(positionals, 0));
    const timeoutMs = count(values, 'timeout');
    const all = headersOf(values['header'], timeoutMs);
    const payload = await payloadOf(positionals[1]);
    const connection = await context.connect();
    const reply = await output.progress(
      `Waiting for ${subject}`,
      call(connection, { subject, payload, headers: all, timeoutMs, signal }),
    );
    const error = errorIn(reply);
    if (error !== undefined) throw error;
    printReply(context, reply);
  },
};

async function call(
  connection: NatsConnection,
  request: {
    subject: string;
    payload: Uint8Array;
    headers: MsgHdrs;
    timeoutMs: number | undefined;
    signal: AbortSignal;
  },
): Promise<Msg> {
  const { subject, payload, headers: all, timeoutMs, signal } = request;
  const bytesMax = connection.info?.max_payload ?? Infinity;
  if (payload.length > bytesMax) {
    throw new HatchError(
      'request.too_large',
      `Cannot send ${payload.length} bytes: the NATS server takes ${bytesMax} in a message`,
    );
  }
  const timeout = timeoutMs === undefined ? waitMsMax : timeoutMs + waySlackMs;
  const cancelling = Promise.withResolvers<never>();
  const onAbort = (): void => {
    void cancel(connection, all.get(requestIdHeader)).then(cancelling.reject);
  };
  signal.addEventListener('abort', onAbort);
  if (signal.aborted) throw cancelled();
  try {
    const reply = connection.request(subject, payload, { headers: all, timeout });
    return await Promise.race([reply, cancelling.promise]);
  } catch (cause) {
    if (cause instanceof HatchError) throw cause;
    const isNobody =
      cause instanceof errors.NoRespondersError ||
      (cause instanceof Error && cause.cause instanceof errors.NoRespondersError);
    if (!isNobody)
      throw (
        natsRefusal(cause) ?? new HatchError('host.nats_unavailable', messageOf(cause), { cause })
      );
    throw new HatchError(
      'host.nats_unavailable',
      'Cannot reach a host: none is connected to this NATS server, start one with "hatch up"',
      { cause },
    );
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** The call's own reply comes first where its host has heard of this. */
async function cancel(connection: NatsConnection, requestId: string): Promise<HatchError> {
  const client = new ControlClient(connection);
  await client.askAll('cancel', { requestId }, cancelTimes).catch(() => undefined);
  return cancelled();
}

function cancelled(): HatchError {
  return new HatchError('request.cancelled', 'The call was cancelled; no host has confirmed it');
}

function printReply({ output }: CommandContext, reply: Msg): void {
  output.bytes(reply.data);
  if (output.isTerminal && reply.data.at(-1) !== 0x0a) output.line('');
  const fact = (name: string) => reply.headers?.get(name) ?? '';
  output.note(
    output.style(
      'dim',
      `request ${fact('Hatch-Request-Id')}  ${fact('Hatch-Start')}  ` +
        formatDuration(Number(fact('Hatch-Duration-Us')) * 1000),
    ),
  );
}

function subjectOf(name: string): string {
  const parsed = parseFunctionSubject(functionSubject(name));
  if (parsed !== undefined) return functionSubject(parsed.name, parsed.qualifier);
  throw new UsageError(`"${name}" must be the name of a function, or NAME.VERSION-OR-ALIAS`);
}

function headersOf(given: unknown, timeoutMs: number | undefined): MsgHdrs {
  const all = headers();
  const pairs: unknown[] = Array.isArray(given) ? given : [];
  for (const pair of pairs) {
    const [, key, value] = /^([^=\s:]+)=(.*)$/s.exec(String(pair)) ?? [];
    if (key === undefined || value === undefined || /[\r\n]/.test(value)) {
      throw new UsageError(`--header "${String(pair)}" must be KEY=VALUE on one line`);
    }
    all.append(key, value);
  }
  if (timeoutMs !== undefined) all.set('Hatch-Timeout-Ms', String(timeoutMs));
  // By its id a call is cancelled.
  if (!all.has(requestIdHeader)) all.set(requestIdHeader, nuid.next());
  return all;
}

async function payloadOf(argument: string | undefined): Promise<Uint8Array> {
  if (argument === undefined) return Buffer.alloc(0);
  if (argument === '-') return await buffer(process.stdin);
  if (!argument.startsWith('@')) return Buffer.from(argument);
  try {
    return await readFile(argument.slice(1));
  } catch (error) {
    throw new UsageError(`the payload cannot be read: ${messageOf(error)}`, { cause: error });
  }
}
