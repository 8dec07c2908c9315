/**
 * A call of a hot `hello` over NATS beside a bare nats.js echo service: same server, same caller.
 * For the load of many callers `hello` is deployed with as many calls to an instance and one
 * instance: with two cores a second Node.js would only take turns with the first.
 */
import { HostProcess } from '../../ops/demo/host-process.ts';
import type { Load, NatsHandlers } from './nats-worker.ts';
import { ratiosOf, rowOf, type Measured, type Options } from './report.ts';
import { Worker } from './worker.ts';

const callers = 64;
const payload = '{"name":"bench"}';
const echo: Load = { subject: 'hatch-bench.echo', payload };
const alone: Load = { subject: 'hatch.fn.hello', payload };
const shared: Load = { subject: 'hatch.fn.hello-shared', payload };

export async function measureCall({ quick, progress }: Options): Promise<Measured> {
  await using opened = new AsyncDisposableStack();
  progress('Starting a host and an echo service');
  const host = await HostProcess.start({ name: 'bench', args: [] });
  opened.defer(() => host.stop());
  await host.deploy('hello');
  await host.deploy('hello', { name: 'hello-shared', concurrency: callers, instancesMax: 1 });
  const echoer = await connected(host, opened);
  await echoer.ask('echo', { subject: echo.subject });
  const caller = await connected(host, opened);

  const rounds = quick ? 2 : 10;
  const count = quick ? 50 : 500;
  const durationMs = quick ? 100 : 1000;
  const [echoMs, callMs, echoRates, callRates]: number[][] = [[], [], [], []];
  await caller.ask('latency', { ...echo, count: count * 2 });
  await caller.ask('latency', { ...alone, count: count * 2 });
  for (let round = 1; round <= rounds; round++) {
    progress(`One call at a time, round ${round} of ${rounds}`);
    echoMs?.push(...(await caller.ask('latency', { ...echo, count })));
    callMs?.push(...(await caller.ask('latency', { ...alone, count })));
  }
  await caller.ask('throughput', { ...shared, callers, durationMs });
  for (let round = 1; round <= rounds; round++) {
    progress(`${callers} callers at a time, round ${round} of ${rounds}`);
    echoRates?.push(await caller.ask('throughput', { ...echo, callers, durationMs }));
    callRates?.push(await caller.ask('throughput', { ...shared, callers, durationMs }));
  }
  return judged([echoMs, callMs, echoRates, callRates]);
}

function judged([echoMs, callMs, echoRates, callRates]: (number[] | undefined)[]): Measured {
  const perSecond = 'calls/s';
  const rows = [
    rowOf('echo', 'ms', echoMs ?? []),
    rowOf('call', 'ms', callMs ?? [], { note: 'hot, one call at a time' }),
    rowOf('echo-throughput', perSecond, echoRates ?? []),
    rowOf('call-throughput', perSecond, callRates ?? [], {
      note: `${callers} callers, one instance with concurrency ${callers}`,
    }),
  ];
  const ratios = ratiosOf(rows, {
    'call-p50/echo-p50': ['call', 'echo'],
    'call-throughput/echo-throughput': ['call-throughput', 'echo-throughput'],
  });
  const latency = ratios['call-p50/echo-p50'] ?? Infinity;
  const throughput = ratios['call-throughput/echo-throughput'] ?? 0;
  return {
    rows,
    ratios,
    budgets: [
      { what: 'call-p50/echo-p50', value: latency, unit: '', atMost: 1.4 },
      { what: 'call-throughput/echo-throughput', value: throughput, unit: '', atLeast: 0.35 },
    ],
  };
}

/** A helper that is connected to the host's server. */
export async function connected(
  host: HostProcess,
  opened: AsyncDisposableStack,
): Promise<Worker<NatsHandlers>> {
  const worker = new Worker<NatsHandlers>('nats-worker.ts');
  opened.defer(() => worker.close());
  await worker.ask('connect', host.address);
  return worker;
}
