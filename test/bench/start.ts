/** How long until an instance of `hello` can be called, by each path, beside what others need. */
import type { StartPath } from '../../host/base/channels.ts';
import type { CommandHandlers, CommandKind } from './command-worker.ts';
import { openBenchEngine, type BenchEngine } from './engines.ts';
import { median, ratiosOf, rowOf, type Measured, type Options, type Row } from './report.ts';
import { Scratch } from './scratch.ts';
import { Worker } from './worker.ts';

interface Contender {
  name: string;
  /** Starts one after the other in each round. */
  batch: number;
  measure: (count: number) => Promise<number[]>;
  /** Goes into its row. */
  further: Record<string, unknown> & { note?: string };
}

const idleMs = 200;
/** As the defaults of function.json. */
const limits = { memoryBytes: 128 * 2 ** 20, cpuCores: 1, pidsMax: 64 };
const commandKinds: CommandKind[] = ['node', 'bwrap', 'runc', 'crun'];

export async function measureStart({ quick, progress }: Options): Promise<Measured> {
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  progress(
    'Opening four engines: with parked containers, with egress too, without, without forking',
  );
  const contenders = await prepare(scratch, opened);
  const samples = new Map(contenders.map(({ name }) => [name, [] as number[]]));
  const rounds = quick ? 2 : 20;
  for (let round = 1; round <= rounds; round++) {
    progress(`Starting instances, round ${round} of ${rounds}`);
    for (const { name, batch, measure } of contenders)
      samples.get(name)?.push(...(await measure(quick ? 2 : batch)));
  }
  const rows = contenders.map(({ name, further }) =>
    rowOf(name, 'ms', samples.get(name) ?? [], further),
  );
  return judged(rows);
}

function judged(rows: Row[]): Measured {
  const ratios = ratiosOf(rows, {
    'runc+node/forked': ['runc+node', 'forked'],
    'parked-spaced/parked': ['parked-spaced', 'parked'],
    'forked-spaced/forked': ['forked-spaced', 'forked'],
  });
  const p50 = (name: string): number => rows.find((row) => row.name === name)?.p50 ?? Infinity;
  return {
    rows,
    ratios,
    budgets: [
      { what: 'parked p50', value: p50('parked'), unit: 'ms', atMost: 2 },
      {
        what: 'parked-egress p50 - parked p50',
        value: p50('parked-egress') - p50('parked'),
        unit: 'ms',
        atMost: 1,
      },
      { what: 'forked p50', value: p50('forked'), unit: 'ms', atMost: 4 },
      { what: 'runc+node/forked', value: ratios['runc+node/forked'] ?? 0, unit: '', atLeast: 15 },
      ...['parked-spaced/parked', 'forked-spaced/forked'].map((what) => ({
        what,
        value: ratios[what] ?? Infinity,
        unit: '',
        atMost: 2,
      })),
    ],
  };
}

async function prepare(scratch: Scratch, opened: AsyncDisposableStack): Promise<Contender[]> {
  const open = (
    name: string,
    index: number,
    options: { parked: number; args?: string[]; egress?: string[] },
  ) => openBenchEngine({ name, index, ...options, scratch, opened });
  const parking = await open('parked', 0, { parked: 1 });
  const forking = await open('forked', 1, { parked: 0 });
  const booting = await open('booted', 2, { parked: 0, args: ['--fork=never'] });
  const connecting = await open('egress', 3, { parked: 1, egress: ['443/tcp'] });
  const commands: Contender[] = [];
  for (const kind of commandKinds)
    commands.push(await prepareCommand({ kind, layers: forking.layers, scratch, opened }));
  return [
    await ours({ name: 'parked', path: 'parked', engine: parking, batch: 10 }),
    await ours({ name: 'parked-egress', path: 'parked', engine: connecting, batch: 10 }),
    await ours({ name: 'forked', path: 'forked', engine: forking, batch: 10 }),
    await ours({ name: 'booted', path: 'booted', engine: booting, batch: 5 }),
    ...commands,
    await ours({ name: 'parked-spaced', path: 'parked', engine: parking, batch: 5, idleMs }),
    await ours({ name: 'forked-spaced', path: 'forked', engine: forking, batch: 5, idleMs }),
  ];
}

/** A path that does not work here fails the run at its end, after the others were measured. */

async function ours(options: {
  name: string;
  path: StartPath;
  engine: BenchEngine;
  batch: number;
  idleMs?: number;
}): Promise<Contender> {
  const { name, path, engine, batch, idleMs: pauseMs = 0 } = options;
  const measure = (count: number) => engine.worker.ask('start', { path, count, idleMs: pauseMs });
  try {
    await measure(1);
    return { name, batch, measure, further: {} };
  } catch (error) {
    process.exitCode = 1;
    return unable(name, error instanceof Error ? error.message : String(error));
  }
}

async function prepareCommand(options: {
  kind: CommandKind;
  layers: string[];
  scratch: Scratch;
  opened: AsyncDisposableStack;
}): Promise<Contender> {
  const { kind, layers, scratch, opened } = options;
  const worker = new Worker<CommandHandlers>('command-worker.ts');
  opened.defer(() => worker.close());
  const directory = scratch.directory(kind);
  const { problem, note } = await worker.ask('prepare', { kind, directory, layers, limits });
  const name = kind === 'node' ? 'node' : `${kind}+node`;
  if (problem !== undefined) return unable(name, problem);
  const exits: number[] = [];
  const further: Contender['further'] = note === undefined ? {} : { note };
  const measure = async (count: number): Promise<number[]> => {
    const samples = await worker.ask('run', { count });
    exits.push(...samples.map(({ exitMs }) => exitMs));
    further['exitP50'] = Number(median(exits).toPrecision(4));
    return samples.map(({ readyMs }) => readyMs);
  };
  return { name, batch: 5, measure, further };
}

function unable(name: string, problem: string): Contender {
  const note = `cannot run here: ${problem}`;
  return { name, batch: 0, measure: () => Promise.resolve([]), further: { note } };
}
