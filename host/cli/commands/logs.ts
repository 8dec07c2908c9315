import { z } from 'zod';
import type { Msg } from '@nats-io/nats-core';
import type { LogRecord } from '../../base/channels.ts';
import { logRecordSchema } from '../../dispatch/control-schemas.ts';
import { count, flag, required, text } from '../command.ts';
import type { Command, CommandContext } from '../command.ts';
import { answersOf } from '../host-answers.ts';
import { time } from '../output.ts';

const limitDefault = 200;

export const logsCommand: Command = {
  name: 'logs',
  usage: 'NAME',
  summary: 'Show what a function printed',
  examples: ['hatch logs hello --follow', 'hatch logs hello --request 3kTm9dQfLw'],
  options: {
    request: { type: 'string', value: 'ID', help: 'of one request only' },
    limit: { type: 'string', value: 'N', help: `the newest N pieces (default ${limitDefault})` },
    follow: { type: 'boolean', short: 'f', value: '', help: 'go on until Ctrl-C' },
    json: { type: 'boolean', value: '', help: 'print a JSON object a line' },
  },
  positionals: { min: 1, max: 1 },
  async run(context) {
    const { client, output, positionals, values } = context;
    const name = required(positionals, 0);
    const requestId = text(values, 'request');
    const limit = count(values, 'limit') ?? limitDefault;
    const query = { name, limit, ...(requestId === undefined ? {} : { requestId }) };
    // Before the question, so that nothing falls between the past and what comes.
    const live = flag(values, 'follow') ? await follow(context, name) : undefined;
    const asked = (await client()).askAll('logs', query);
    const answers = answersOf(await output.progress('Asking', asked), output);
    const records = answers
      .flatMap(({ reply }) => reply.records)
      .toSorted((a, b) => a.timeMs - b.timeMs);
    for (const record of records.slice(-limit)) print(context, record);
    if (live === undefined) {
      if (records.length === 0) output.note(`No host has output of ${name}`);
      return;
    }
    const newestMs = records.at(-1)?.timeMs ?? 0;
    await live((record) => {
      const isShown = record.timeMs <= newestMs && records.some((one) => isSame(one, record));
      const isWanted = requestId === undefined || record.requestId === requestId;
      if (isWanted && !isShown) print(context, record);
    });
  },
};

type Follower = (onRecord: (record: LogRecord) => void) => Promise<void>;

async function follow({ connect, signal }: CommandContext, name: string): Promise<Follower> {
  const connection = await connect();
  const early: LogRecord[] = [];
  let onRecord = (record: LogRecord): void => {
    early.push(record);
  };
  const subscription = connection.subscribe(`hatch.logs.${name}.*`, {
    callback: (error, message) => {
      if (error === null) for (const record of readRecords(message)) onRecord(record);
    },
  });
  await connection.flush();
  return async (listener) => {
    for (const record of early) listener(record);
    onRecord = listener;
    const { promise, resolve } = Promise.withResolvers<void>();
    signal.addEventListener('abort', () => resolve(), { once: true });
    if (signal.aborted) resolve();
    await Promise.race([promise, connection.closed()]);
    subscription.unsubscribe();
  };
}

function readRecords(message: Msg): LogRecord[] {
  const parsed = z.union([logRecordSchema, z.array(logRecordSchema)]).safeParse(message.json());
  if (!parsed.success) return [];
  return Array.isArray(parsed.data) ? parsed.data : [parsed.data];
}

function print({ output }: CommandContext, record: LogRecord): void {
  if (output.json) return output.line(JSON.stringify(record));
  const { timeMs, functionVersion, instanceId, requestId, stream, text: written } = record;
  const milliseconds = String(Math.floor(timeMs % 1000)).padStart(3, '0');
  const who = `v${functionVersion} ${instanceId} ${requestId ?? '-'}`;
  const origin = `${time(timeMs)}.${milliseconds} ${who}`;
  for (const line of written.replace(/\n$/, '').split('\n')) {
    output.line(
      `${output.style('dim', origin)} ${stream === 'stderr' ? output.style('red', line) : line}`,
    );
  }
}

function isSame(one: LogRecord, other: LogRecord): boolean {
  return (
    one.timeMs === other.timeMs &&
    one.instanceId === other.instanceId &&
    one.stream === other.stream &&
    one.text === other.text
  );
}
