/** Tests, or any command, in a VM that has this machine's files and keeps none of its changes. */
import { join } from 'node:path';
import { boot, isAccelerated, type BootOptions } from './machine.ts';
import { fetchKernel } from './kernel.ts';

type RunOptions = Omit<BootOptions, 'kernel' | 'repository' | 'command'>;

const repository = join(import.meta.dirname, '../..');
/** What is said to take a second takes this many there, when QEMU translates instructions. */
const emulationSlowness = 8;

/** Resolves with the status of `ops/test.sh` inside. */
export function runTestsInVm({ pattern, ...options }: RunOptions & { pattern: string }) {
  return runInVm({ ...options, command: `exec bash ops/test.sh ${quoted(pattern)}` });
}

/** `command` is a line of shell; resolves with its exit status. */
export async function runInVm({ command, ...options }: RunOptions & { command: string }) {
  const kernel = await fetchKernel(join(repository, '.cache/vm/kernel'));
  const slowness = isAccelerated() ? 1 : emulationSlowness;
  const environment = `export HATCH_TEST_VM=1 HATCH_TEST_SLOWNESS=${slowness}\n`;
  return await boot({ ...options, kernel, repository, command: environment + command });
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
