/**
 * `npm run demo`: hosts of its own, the example functions, and what is special about them, measured
 * as it runs. Leaves nothing behind, whatever way it ends.
 */
import { cpus, release } from 'node:os';
import { messageOf } from '../host/base/errors.ts';
import { formatBytes, formatDuration } from '../host/telemetry/format.ts';
import { renderTrace } from '../host/telemetry/waterfall.ts';
import { call, recordOf, type Called } from './demo/calls.ts';
import { DemoHosts } from './demo/hosts.ts';
import type { HostProcess } from './demo/host-process.ts';
import { memoryOfFreshNode, memoryOfInstance } from './demo/memory.ts';
import { clip, colors, columns, line, paint, step, table, title } from './demo/screen.ts';
import {
  deployForPaths,
  measurePaths,
  printPaths,
  typicalForkedStart,
} from './demo/start-paths.ts';

const examples: { name: string; payload: unknown }[] = [
  { name: 'hello', payload: { name: 'Ada' } },
  { name: 'markdown', payload: { markdown: '# Hi\n<script>alert(1)</script>' } },
  { name: 'ledger', payload: { account: 7, amount: 5 } },
  { name: 'spawn', payload: { count: 8, lifetimeMs: 50, waitMs: 150 } },
];

process.exitCode = await main();

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) {
    console.error('demo: Run this as root: it makes containers (sudo npm run demo)');
    return 1;
  }
  const hosts = new DemoHosts();
  const interrupted = Promise.withResolvers<never>();
  interrupted.promise.catch(() => undefined);
  const onSignal = (): void => interrupted.reject(new Error('Interrupted, cleaning up'));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  let failure: unknown;
  try {
    await Promise.race([show(hosts), interrupted.promise]);
  } catch (error) {
    failure = error;
    line();
    console.error(`demo: ${messageOf(error)}`);
  }
  await hosts.stop();
  if (failure === undefined) line(paint('dim', '\nAll hosts have ended; nothing is left behind.'));
  // What the interruption left waiting must not keep the process.
  process.exit(failure === undefined ? 0 : 1);
}

async function show(hosts: DemoHosts): Promise<void> {
  line(
    paint('bold', '\nHatchery') + ': NATS messages run TypeScript, each in a container of its own',
  );
  line(
    paint(
      'dim',
      `Node.js ${process.version}, Linux ${release()}, ` +
        `${cpus().length} × ${cpus()[0]?.model ?? 'CPU'}`,
    ),
  );
  line();
  const host = await step('Starting a host', hosts.get('parking'), ({ address }) => address.url);
  // They come up while the functions are being deployed.
  void hosts.get('forking');
  void hosts.get('booting');
  await deployExamples(host);
  const called = await callExamples(host);
  await showPaths(hosts);
  await showCopyUp(host, called.get('ledger'));
  await showMemory(host);
  line();
  line(`Next: ${paint('cyan', 'npm start')} keeps a host running; then, in another terminal,`);
  line(`  ${paint('cyan', 'ops/hatch deploy functions/hello')}`);
  line(`  ${paint('cyan', `ops/hatch invoke hello '{"name":"Ada"}'`)}`);
}

async function deployExamples(host: HostProcess): Promise<void> {
  for (const { name } of examples)
    await step(`Deploying functions/${name}`, host.deploy(name), ({ layerBytes, startRecord }) => {
      const took = formatDuration(startRecord.endNs - startRecord.startNs);
      return `${formatBytes(layerBytes)}, ready in ${took} (${startRecord.path})`;
    });
}

async function callExamples(host: HostProcess): Promise<Map<string, Called>> {
  title('Calls over NATS', 'request on hatch.fn.<name>, reply from inside the container');
  const called = new Map<string, Called>();
  for (const { name, payload } of examples) called.set(name, await call(host, name, payload));
  table(
    [
      { name: 'function', align: 'left' },
      { name: 'request', align: 'left' },
      { name: 'reply', align: 'left' },
    ],
    examples.map(({ name, payload }) => [
      paint('cyan', name),
      clip(JSON.stringify(payload), 36),
      clip(called.get(name)?.text ?? '', 46),
    ]),
  );
  return called;
}

async function showPaths(hosts: DemoHosts): Promise<void> {
  title(
    'Four ways to an instance, each with 7 namespaces, cgroup limits, overlay root and seccomp',
    'start: until the instance can be called; call: request to reply, NATS both ways included',
  );
  await step('Deploying to a host of each kind', deployForPaths(hosts));
  const results = await step('Calling by each path, in turns', measurePaths(hosts));
  line();
  printPaths(results);
  title(
    'One cold start, step by step',
    'the forked one that took the median time; hatch trace shows any call so',
  );
  printTrace(
    renderTrace(await typicalForkedStart(hosts, results), { columns: columns - 2, colors }),
  );
}

async function showCopyUp(host: HostProcess, called: Called | undefined): Promise<void> {
  if (called === undefined) throw new Error('"ledger" was not called');
  title(
    'Why was that call slow? The kernel copied a file',
    'ledger updates one row of a database in its read-only layer: overlayfs copies the whole file',
  );
  const record = await recordOf(host, called.requestId);
  printTrace(renderTrace(record, { columns: columns - 2, colors }));
  const again = await call(host, 'ledger', { account: 7, amount: 5 });
  const { copyUps, receivedNs, endNs } = await recordOf(host, again.requestId);
  const took = formatDuration(endNs - receivedNs);
  line(`  ${paint('dim', `The next call: ${took}, ${copyUps.length} files copied.`)}`);
}

async function showMemory(host: HostProcess): Promise<void> {
  title(
    'Memory of an idle instance of hello',
    'private: what one more of them adds; PSS: with its part of what it shares',
  );
  const { instances, parked } = await host.status();
  const hello = instances.find(({ functionName }) => functionName === 'hello');
  if (hello === undefined) throw new Error('"hello" has no instance');
  const idle = memoryOfInstance(host.cgroupParent, hello.id);
  const fresh = await memoryOfFreshNode();
  const right = (name: string) => ({ name, align: 'right' as const });
  table(
    [{ name: '', align: 'left' }, right('processes'), right('private'), right('PSS')],
    [
      ['instance: PID 1 and the function', idle],
      ['for comparison: node, just started', fresh],
    ].map(([label, memory]) => {
      if (typeof label !== 'string' || typeof memory !== 'object') return [];
      const { processes, privateBytes, pssBytes } = memory;
      return [
        label,
        String(processes),
        paint('bold', formatBytes(privateBytes)),
        formatBytes(pssBytes),
      ];
    }),
  );
  line(
    paint('dim', `  Measured among ${instances.length} instances and ${parked} parked containers.`),
  );
}

function printTrace(text: string): void {
  for (const each of text.trimEnd().split('\n')) line(`  ${each}`);
}
