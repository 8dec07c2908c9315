/** ZFS for the VM, which Debian has as source only: built here, once, for the VM's kernel. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Kernel } from './kernel.ts';

const run = promisify(execFile);
const buildTimeoutMs = 90 * 60_000;
const outputBytesMax = 64 << 20;

/** `directory` holds it from then on, as `ops/vm/build-zfs.sh` says; another kernel's goes. */
export async function buildZfs(directory: string, kernel: Kernel): Promise<void> {
  if (versionOf(directory) === kernel.version) return;
  await rm(directory, { recursive: true, force: true });
  console.log(`vm: building ZFS for Linux ${kernel.version}, once: some 5 minutes, or 20 if busy`);
  const script = join(import.meta.dirname, 'build-zfs.sh');
  try {
    await run('bash', [script, kernel.version, directory], {
      timeout: buildTimeoutMs,
      maxBuffer: outputBytesMax,
    });
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    throw new Error(`Cannot build ZFS: ${stderr.trim().split('\n').slice(-5).join('\n')}`, {
      cause: error,
    });
  }
}

/** Whether a test file has tests that want ZFS: they ask `test/support/zfs.ts` for it. */
export function wantsZfs(testFile: string): boolean {
  return readFileSync(testFile, 'utf8').includes('/support/zfs.ts');
}

/** Of the kernel that the modules there are for. */
function versionOf(directory: string): string | undefined {
  const file = join(directory, 'kernel-version');
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
}
