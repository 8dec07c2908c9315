/** Engines for measuring: each has a process, control groups and user ids of its own. */
import type { EngineHandlers } from './engine-worker.ts';
import type { OmittedLayer } from './layers-off.ts';
import type { Scratch } from './scratch.ts';
import { Worker } from './worker.ts';

export interface BenchEngine {
  worker: Worker<EngineHandlers>;
  /** Directories of the base image's layers, bottom first. */
  layers: string[];
}

const rangesEach = 2048;
const uidBase = 300_000_000;

/** `args` are flags of `hatch up`. The engine ends with `opened`. */
export async function openBenchEngine(options: {
  name: string;
  /** Keeps the user ids of several engines apart. */
  index: number;
  parked: number;
  args?: string[];
  /** What the function may reach; the engine has a network namespace of its own then. */
  egress?: string[];
  /** `hello` when left out. */
  functionDirectory?: string;
  /** A layer of isolation that is left out, to see what it costs. */
  without?: OmittedLayer | undefined;
  scratch: Scratch;
  opened: AsyncDisposableStack;
}): Promise<BenchEngine> {
  const { name, index, parked, functionDirectory, args = [], egress = [] } = options;
  const { without, scratch, opened } = options;
  const worker = new Worker<EngineHandlers>('engine-worker.ts', { ownNetwork: egress.length > 0 });
  opened.defer(() => worker.close());
  const layers = await worker.ask('open', {
    stateDirectory: scratch.directory(name),
    parked,
    functionDirectory,
    egress,
    without,
    args: [
      `--cgroup-parent=hatch-bench-${process.pid}-${name}`,
      `--uid-base=${uidBase + index * rangesEach * 65_536}`,
      `--uid-ranges=${rangesEach}`,
      ...args,
    ],
  });
  return { worker, layers };
}
