/** `hatch image pin --burst FILE`: layers for calls that are expected soon. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { messageOf } from '../../base/errors.ts';
import { burstRequestSchema } from '../../dispatch/control-schemas.ts';
import { formatBytes } from '../../telemetry/format.ts';
import { UsageError } from '../command.ts';
import type { CommandContext } from '../command.ts';
import { answersOf } from '../host-answers.ts';

const fileSchema = z.strictObject({
  minutes: z
    .number()
    .positive()
    .max(7 * 24 * 60),
  functions: burstRequestSchema.shape.functions,
});

export async function pinBurst({ client, output }: CommandContext, path: string): Promise<void> {
  const { minutes, functions } = await readBurst(path);
  const request = { functions, forMs: Math.ceil(minutes * 60_000) };
  // Each host fetches and unpacks all that fits.
  const asked = (await client()).askAll('burst.pin', request, {
    timeoutMs: 600_000,
    quietMs: 2000,
  });
  const hosts = answersOf(await output.progress('Waiting for the hosts', asked), output);
  if (output.json) return output.value(hosts.map(({ host, reply }) => ({ host, ...reply })));
  output.table(
    ['HOST', 'READY', 'NOT READY', 'PINNED', 'FETCHED'],
    hosts.map(({ host, reply }) => [
      host,
      reply.ready.length,
      reply.notReady.length,
      formatBytes(reply.pinnedBytes),
      formatBytes(reply.fetchedBytes),
    ]),
  );
  for (const { host, reply } of hosts)
    for (const { name, reason } of reply.notReady) output.note(`${host}: ${name}: ${reason}`);
}

export async function unpinBurst({ client, output }: CommandContext): Promise<void> {
  const asked = (await client()).askAll('burst.release', {});
  const hosts = answersOf(await output.progress('Asking', asked), output);
  if (output.json) return output.value(hosts.map(({ host }) => ({ host })));
  output.table(
    ['HOST', 'BURST'],
    hosts.map(({ host }) => [host, 'released']),
  );
}

async function readBurst(path: string): Promise<z.output<typeof fileSchema>> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new UsageError(`Cannot read burst file "${path}": ${messageOf(error)}`);
  }
  const { data, error } = fileSchema.safeParse(value);
  if (data !== undefined) return data;
  const [issue] = error.issues;
  throw new UsageError(
    `Burst file "${path}", ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'is invalid'}`,
  );
}
