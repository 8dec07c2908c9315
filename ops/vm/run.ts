/** Tests, or any command, in a VM that has this machine's files and keeps none of its changes. */
import { join } from 'node:path';
import { findTestFiles, initFor } from '../test-files.ts';
import { boot, isAccelerated, type BootOptions, type Init } from './machine.ts';
import { fetchKernel } from './kernel.ts';

type RunOptions = Omit<BootOptions, 'kernel' | 'repository' | 'command' | 'init'>;

const repository = join(import.meta.dirname, '../..');
/** What is said to take a second takes this many there, when QEMU translates instructions. */
const emulationSlowness = 8;

/** Resolves with the status of `ops/test.sh` inside; each kind of VM has its tests and limit. */
export async function runTestsInVm({ pattern, ...options }: RunOptions & { pattern: string }) {
  const inits = new Set(findTestFiles(pattern).map(initFor));
  let worst = 0;
  for (const init of inits.size === 0 ? (['script'] as const) : inits) {
    const command = `exec bash ops/test.sh ${quoted(pattern)}`;
    worst = Math.max(worst, await runInVm({ ...options, init, command }));
  }
  return worst;
}

/** `command` is a line of shell; resolves with its exit status. */
export async function runInVm({
  command,
  init = 'script',
  ...options
}: RunOptions & { command: string; init?: Init }): Promise<number> {
  const kernel = await fetchKernel(join(repository, '.cache/vm/kernel'));
  const slowness = isAccelerated() ? 1 : emulationSlowness;
  const variables = { VM: 1, INIT: init, SLOWNESS: slowness };
  const words = Object.entries(variables).map(([name, value]) => `HATCH_TEST_${name}=${value}`);
  const environment = `export ${words.join(' ')}\n`;
  return await boot({ ...options, kernel, repository, init, command: environment + command });
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
