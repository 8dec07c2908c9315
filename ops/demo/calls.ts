/** Calls over NATS, as any client makes them, and what the host knows of them afterwards. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallRecord, StartPath } from '../../host/base/channels.ts';
import { errorIn } from '../../host/dispatch/control-client.ts';
import type { HostProcess } from './host-process.ts';

export interface Called {
  start: StartPath;
  requestId: string;
  text: string;
  /** As the caller sees it, NATS both ways included. */
  roundTripMs: number;
}

const timeout = 30_000;
const recordTimeoutMs = 3000;

export async function call(host: HostProcess, name: string, payload: unknown): Promise<Called> {
  const began = performance.now();
  const reply = await host.connection.request(`hatch.fn.${name}`, JSON.stringify(payload), {
    timeout,
  });
  const roundTripMs = performance.now() - began;
  const error = errorIn(reply);
  if (error !== undefined) throw error;
  const fact = (key: string): string => reply.headers?.get(key) ?? '';
  return {
    start: fact('Hatch-Start') as StartPath,
    requestId: fact('Hatch-Request-Id'),
    text: reply.string(),
    roundTripMs,
  };
}

/** A call is recorded after its reply has gone. */
export async function recordOf(host: HostProcess, requestId: string): Promise<CallRecord> {
  const deadline = performance.now() + recordTimeoutMs;
  for (;;) {
    try {
      return (await host.client.askAny('trace', { requestId })).reply.record;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(20);
    }
  }
}
