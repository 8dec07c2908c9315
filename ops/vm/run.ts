/** Tests, or any command, in a VM that has this machine's files and keeps none of its changes. */
import { join } from 'node:path';
import { findTestFiles, initFor } from '../test-files.ts';
import { boot, isAccelerated, type BootOptions, type Init } from './machine.ts';
import { fetchKernel } from './kernel.ts';
import { buildZfs, wantsZfs } from './zfs.ts';

interface RunOptions extends Omit<BootOptions, 'kernel' | 'repository' | 'command' | 'init'> {
  /** Whether its kernel has ZFS, which is built for the first one that does. */
  zfs?: boolean;
}

const repository = join(import.meta.dirname, '../..');
/** What is said to take a second takes this many there, when QEMU translates instructions. */
const emulationSlowness = 8;

/**
 * Resolves with the status of `ops/test.sh` inside; each kind of VM has its tests and limit. By
 * default they have ZFS where a test wants it.
 */
export async function runTestsInVm({ pattern, ...options }: RunOptions & { pattern: string }) {
  const files = findTestFiles(pattern);
  const { zfs = files.some((file) => wantsZfs(join(repository, file))) } = options;
  const inits = new Set(files.map(initFor));
  const command = `exec bash ops/test.sh ${quoted(pattern)}`;
  let worst = 0;
  for (const init of inits.size === 0 ? (['script'] as const) : inits)
    worst = Math.max(worst, await runInVm({ ...options, init, command, zfs }));
  return worst;
}

/** `command` is a line of shell; resolves with its exit status. */
export async function runInVm({
  command,
  init = 'script',
  zfs = false,
  ...options
}: RunOptions & { command: string; init?: Init }): Promise<number> {
  const kernel = await fetchKernel(join(repository, '.cache/vm/kernel'));
  if (zfs) await buildZfs(join(repository, '.cache/vm/zfs'), kernel);
  const slowness = isAccelerated() ? 1 : emulationSlowness;
  const variables = { VM: 1, INIT: init, SLOWNESS: slowness, ...(zfs && { ZFS: 1 }) };
  const words = Object.entries(variables).map(([name, value]) => `HATCH_TEST_${name}=${value}`);
  const environment = `export ${words.join(' ')}\n`;
  return await boot({ ...options, kernel, repository, init, command: environment + command });
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
