/** The same function by each way to an instance, in turns, so that noise meets all alike. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallRecord, StartPath } from '../../host/base/channels.ts';
import { nsPerMs } from '../../host/base/clock.ts';
import { formatDuration } from '../../host/telemetry/format.ts';
import { call, recordOf, type Called } from './calls.ts';
import type { DemoHosts, HostKind } from './hosts.ts';
import type { HostProcess } from './host-process.ts';
import { paint, table } from './screen.ts';

export interface PathResult {
  path: StartPath;
  /** Until the instance could be called; none for hot ones. */
  startNs: number[];
  roundTripNs: number[];
  calls: Called[];
}

const rounds = 20;
const paths: { path: StartPath; kind: HostKind; fn: string }[] = [
  { path: 'hot', kind: 'parking', fn: 'hello' },
  { path: 'parked', kind: 'parking', fn: 'hello-once' },
  { path: 'forked', kind: 'forking', fn: 'hello-once' },
  { path: 'booted', kind: 'booting', fn: 'hello-once' },
];
const meanings: Record<StartPath, string> = {
  hot: 'an instance that is there already',
  parked: 'a container made ahead gets the function',
  forked: 'a container made now, of forked processes',
  booted: 'a container that boots its Node.js',
};

/** `hello-once` has `reuse: never`: every call has to have a container of its own. */
export async function deployForPaths(hosts: DemoHosts): Promise<void> {
  const kinds = ['parking', 'forking', 'booting'] as const;
  await Promise.all(
    kinds.map(async (kind) => {
      const host = await hosts.get(kind);
      await host.deploy('hello', { name: 'hello-once', reuse: 'never' });
      // The instance that the deploy tried it with serves one call hot, and is gone then.
      await call(host, 'hello-once', {});
    }),
  );
}

export async function measurePaths(hosts: DemoHosts): Promise<PathResult[]> {
  const results: PathResult[] = paths.map(({ path }) => ({
    path,
    startNs: [],
    roundTripNs: [],
    calls: [],
  }));
  for (let round = 0; round < rounds; round++)
    for (const [at, { path, kind, fn }] of paths.entries()) {
      const host = await hosts.get(kind);
      if (path === 'parked') await parkedAgain(host);
      const called = await call(host, fn, { name: 'Ada' });
      if (called.start !== path)
        throw new Error(`A call started by "${called.start}" where "${path}" was due`);
      results[at]?.calls.push(called);
      results[at]?.roundTripNs.push(called.roundTripMs * nsPerMs);
    }
  for (const [at, { path, kind }] of paths.entries())
    for (const { requestId } of results[at]?.calls ?? []) {
      if (path === 'hot') continue;
      const { startRecord } = await recordOf(await hosts.get(kind), requestId);
      if (startRecord !== undefined)
        results[at]?.startNs.push(startRecord.endNs - startRecord.startNs);
    }
  return results;
}

export function printPaths(results: readonly PathResult[]): void {
  const right = (name: string) => ({ name, align: 'right' as const });
  const left = (name: string) => ({ name, align: 'left' as const });
  const header = [
    left('path'),
    left('what a call finds'),
    right('start p50'),
    right('p95'),
    right('call p50'),
    right('p95'),
  ];
  table(
    header,
    results.map(({ path, startNs, roundTripNs }) => [
      paint('cyan', path),
      meanings[path],
      startNs.length === 0 ? 'none' : paint('bold', at(startNs, 0.5)),
      startNs.length === 0 ? '' : at(startNs, 0.95),
      at(roundTripNs, 0.5),
      at(roundTripNs, 0.95),
    ]),
  );
}

/** A forked start that is neither lucky nor unlucky. */
export async function typicalForkedStart(
  hosts: DemoHosts,
  results: readonly PathResult[],
): Promise<CallRecord> {
  const calls = results.find(({ path }) => path === 'forked')?.calls ?? [];
  const sorted = calls.toSorted((a, b) => a.roundTripMs - b.roundTripMs);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error('No start was forked');
  return await recordOf(await hosts.get('forking'), middle.requestId);
}

async function parkedAgain(host: HostProcess): Promise<void> {
  while ((await host.status()).parked === 0) await sleep(5);
}

function at(samples: readonly number[], share: number): string {
  const sorted = samples.toSorted((a, b) => a - b);
  return formatDuration(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0);
}
