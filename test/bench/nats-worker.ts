/** One side of a call, in a process of its own: the caller, or the bare echo we compare with. */
import { connect } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/nats-core';
import type { NatsAddress } from '../../ops/demo/host-process.ts';
import { serve } from './worker.ts';

export interface Load {
  subject: string;
  payload: string;
}

let connection: NatsConnection | undefined;
const timeout = 60_000;

const handlers = {
  async connect({ url, token }: NatsAddress): Promise<void> {
    connection = await connect({ servers: url, token });
  },

  /** Answers each message with its own bytes: nothing is less work. */
  async echo({ subject }: { subject: string }): Promise<void> {
    theConnection().subscribe(subject, {
      callback: (_, message) => void message.respond(message.data),
    });
    await theConnection().flush();
  },

  /** Calls one after the other; round trips in milliseconds. */
  async latency({ subject, payload, count }: Load & { count: number }): Promise<number[]> {
    const samples: number[] = [];
    for (let call = 0; call < count; call++) {
      const began = performance.now();
      const reply = await theConnection().request(subject, payload, { timeout });
      samples.push(performance.now() - began);
      refuseErrors(reply);
    }
    return samples;
  },

  /** `callers` that each call again as soon as they have an answer; calls per second. */
  async throughput(load: Load & { callers: number; durationMs: number }): Promise<number> {
    const { subject, payload, callers, durationMs } = load;
    let calls = 0;
    const began = performance.now();
    const callOn = async (): Promise<void> => {
      while (performance.now() - began < durationMs) {
        refuseErrors(await theConnection().request(subject, payload, { timeout }));
        calls++;
      }
    };
    await Promise.all(Array.from({ length: callers }, callOn));
    return (calls / (performance.now() - began)) * 1000;
  },

  /** All calls at once; how long until the last reply, and how many found no instance. */
  async burst(load: Load & { count: number }): Promise<{ lastReplyMs: number; starts: number }> {
    const { subject, payload, count } = load;
    const began = performance.now();
    const replies = await Promise.all(
      Array.from({ length: count }, () => theConnection().request(subject, payload, { timeout })),
    );
    const lastReplyMs = performance.now() - began;
    const paths = replies.map((reply) => {
      refuseErrors(reply);
      return reply.headers?.get('Hatch-Start');
    });
    return { lastReplyMs, starts: paths.filter((path) => path !== 'hot').length };
  },
};

export type NatsHandlers = typeof handlers;

serve(handlers, async () => {
  await connection?.close();
});

function theConnection(): NatsConnection {
  if (connection === undefined) throw new Error('Connect first');
  return connection;
}

/** A fast error is no call. */
function refuseErrors(reply: { headers?: { get(name: string): string } | undefined }): void {
  const error = reply.headers?.get('Nats-Service-Error') ?? '';
  if (error !== '') throw new Error(error);
}
