/** Copies files up in an overlay of its own, with and without the probe of `copy-up-probe.ts`. */
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { callNames } from '../../host/security/security.ts';
import { openCopyUpProbe } from '../../host/storage/copy-up-probe.ts';
import { MemoryScratch } from '../../host/storage/memory-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import { serve } from './worker.ts';

interface Workload {
  directory: string;
  /** Of each file, all of which are written to in one sample. */
  fileBytes: number;
  files: number;
}

interface Samples {
  /** Milliseconds for all files of a root. */
  plainMs: number[];
  probedMs: number[];
  /** Why there are no probed ones. */
  unavailable: string | undefined;
}

const handlers = {
  /** In turns, so that what else the machine does falls on both alike. */
  async copyUps({ rounds, ...workload }: Workload & { rounds: number }): Promise<Samples> {
    const options = { layout: detectCgroupLayout(), callNames: callNames() };
    const first = openCopyUpProbe(options);
    first.close();
    const { unavailable } = first;
    const samples: Samples = { plainMs: [], probedMs: [], unavailable };
    const lower = makeLayer(workload);
    // What comes first after a change of the kernel's code, or with empty caches, is not counted.
    const measure = async (): Promise<number> => {
      await writeToAll(workload, lower);
      return await writeToAll(workload, lower);
    };
    for (let round = 0; round < rounds; round++) {
      samples.plainMs.push(await measure());
      if (unavailable !== undefined) continue;
      const probe = openCopyUpProbe(options);
      samples.probedMs.push(await measure());
      probe.close();
    }
    return samples;
  },
};

export type CopyUpHandlers = typeof handlers;

function makeLayer({ directory, fileBytes, files }: Workload): string {
  const lower = join(directory, 'lower');
  mkdirSync(lower);
  for (let index = 0; index < files; index++)
    writeFileSync(join(lower, String(index)), Buffer.alloc(fileBytes, index));
  return lower;
}

/** Milliseconds for the first write to each file of a fresh root. */
async function writeToAll(
  { directory, fileBytes, files }: Workload,
  lower: string,
): Promise<number> {
  const sizeBytes = 2 * fileBytes * files + (16 << 20);
  const mountPoints = join(directory, 'scratch');
  const driver = OverlayDriver.open(new MemoryScratch({ sizeBytes, mountPoints }));
  try {
    const lowerDirectories = [lower];
    const root = driver.createRoot({
      id: 'bench',
      lowerDirectories,
      ownerUid: 0,
      ownerGid: 0,
    });
    const start = performance.now();
    for (let index = 0; index < files; index++) {
      const fd = openSync(`/proc/self/fd/${root.mountFd}/${index}`, 'r+');
      writeSync(fd, 'x');
      closeSync(fd);
    }
    return performance.now() - start;
  } finally {
    await driver.close();
  }
}

serve(handlers, () => Promise.resolve());
