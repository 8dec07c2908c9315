/** Debian's stock kernel: its package, downloaded once and unpacked, never installed. */
import { execFile } from 'node:child_process';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface Kernel {
  /** As `uname -r` says it. */
  version: string;
  imageFile: string;
  /** Where the package lies unpacked: its modules are in `lib/modules/<version>` below. */
  directory: string;
}

const run = promisify(execFile);
const downloadTimeoutMs = 300_000;

/** `directory` holds it from then on; removing that brings Debian's newest the next time. */
export async function fetchKernel(directory: string): Promise<Kernel> {
  if (process.arch !== 'x64')
    throw new Error(`Cannot boot a test kernel on ${process.arch}: this knows x64 only`);
  const there = await stat(directory).catch(() => undefined);
  if (there === undefined) await download(directory);
  const [version] = await readdir(join(directory, 'lib/modules'));
  if (version === undefined) throw new Error(`Remove "${directory}": it holds no kernel`);
  return { version, imageFile: join(directory, `boot/vmlinuz-${version}`), directory };
}

/** Appears under its name only when it is complete. */
async function download(directory: string): Promise<void> {
  const partial = `${directory}.partial`;
  await rm(partial, { recursive: true, force: true });
  await mkdir(join(partial, 'package'), { recursive: true });
  const name = await packageName().catch(async () => {
    // A machine's first use of apt: it has no lists yet.
    await run('apt-get', ['update'], { timeout: downloadTimeoutMs });
    return await packageName();
  });
  console.log(`vm: downloading ${name}, once`);
  const cwd = join(partial, 'package');
  await run('apt-get', ['download', name], { cwd, timeout: downloadTimeoutMs });
  const [file = ''] = await readdir(cwd);
  await run('dpkg-deb', ['--extract', join(cwd, file), partial]);
  await rm(cwd, { recursive: true });
  const [version = ''] = await readdir(join(partial, 'lib/modules'));
  await run('depmod', ['--basedir', partial, version]);
  await rename(partial, directory);
}

/** `linux-image-amd64` only names the package of the current version. */
async function packageName(): Promise<string> {
  const { stdout } = await run('apt-cache', ['depends', 'linux-image-amd64']);
  const name = /Depends: (linux-image-\S+)/.exec(stdout)?.[1];
  if (name === undefined) throw new Error('Cannot find the package linux-image-amd64');
  return name;
}
