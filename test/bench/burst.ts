/**
 * 200 calls at once for a function that has no instance. `hello` as it is gives an instance to the
 * next call when it has answered; with `reuse: never` each call has to have a container of its own,
 * and that is what the main rows show.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { HostProcess } from '../../ops/demo/host-process.ts';
import { connected } from './call.ts';
import { rowOf, type Measured, type Options } from './report.ts';

const payload = '{"name":"bench"}';

export async function measureBurst({ quick, progress }: Options): Promise<Measured> {
  const count = quick ? 20 : 200;
  const rounds = quick ? 1 : 5;
  await using opened = new AsyncDisposableStack();
  progress('Starting a host');
  const host = await HostProcess.start({ name: 'bench', args: [] });
  opened.defer(() => host.stop());
  const manifest = { instancesMax: count, keepAlive: { policy: 'fixed', minutes: 0 } };
  await host.deploy('hello', { ...manifest, name: 'hello-single', reuse: 'never' });
  await host.deploy('hello', { ...manifest, name: 'hello-reused' });
  const caller = await connected(host, opened);
  const single: number[] = [];
  const perSecond: number[] = [];
  const reused: number[] = [];
  const reusedStarts: number[] = [];
  for (let round = 1; round <= rounds; round++) {
    progress(`${count} calls at once, round ${round} of ${rounds}`);
    await withoutInstances(host);
    const one = await caller.ask('burst', { subject: 'hatch.fn.hello-single', payload, count });
    if (one.starts !== count) throw new Error(`${one.starts} instances started, not ${count}`);
    single.push(one.lastReplyMs);
    perSecond.push((one.starts / one.lastReplyMs) * 1000);
    await withoutInstances(host);
    const other = await caller.ask('burst', { subject: 'hatch.fn.hello-reused', payload, count });
    reused.push(other.lastReplyMs);
    reusedStarts.push(other.starts);
  }
  return {
    rows: [
      rowOf('last-reply', 'ms', single, { note: `${count} calls, each in a container of its own` }),
      rowOf('starts-per-second', '1/s', perSecond),
      rowOf('last-reply-reused', 'ms', reused, {
        note: `${count} calls, an instance serves the next call when it has answered`,
      }),
      rowOf('starts-reused', 'starts', reusedStarts),
    ],
    ratios: {},
    budgets: [],
  };
}

/** What a deploy or the last round left has to be gone, and the parked ones back. */
async function withoutInstances(host: HostProcess): Promise<void> {
  for (;;) {
    const { instances, parked } = await host.status();
    if (instances.length === 0 && parked > 0) break;
    await sleep(50);
  }
  await sleep(200);
}
