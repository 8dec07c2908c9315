/** What the kernel boots into: busybox, the modules for the shared root, and `init.sh`. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Kernel } from './kernel.ts';

interface Entry {
  path: string;
  mode: number;
  content: Buffer;
}

/** For the root shared over 9p, the scratch disk, and the ports of our output. */
const modules = [
  'virtio_pci',
  '9pnet_virtio',
  '9p',
  'virtio_blk',
  'virtio_console',
  'ext4',
  'overlay',
];

/** A cpio archive; `command` is what the guest runs, as a line of shell. */
export function buildInitramfs(kernel: Kernel, command: string): Buffer {
  const busybox = execFileSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8' }).trim();
  return archive([
    ...['bin', 'modules'].map((path) => ({ path, mode: 0o040755, content: Buffer.alloc(0) })),
    { path: 'bin/busybox', mode: 0o100755, content: readFileSync(busybox) },
    { path: 'init', mode: 0o100755, content: readFileSync(join(import.meta.dirname, 'init.sh')) },
    { path: 'command', mode: 0o100644, content: Buffer.from(command) },
    ...moduleFiles(kernel).map((file, index) => ({
      path: `modules/${String(index).padStart(2, '0')}-${basename(file)}`,
      mode: 0o100644,
      content: readFileSync(file),
    })),
  ]);
}

/** In the order in which they load. */
function moduleFiles({ directory, version }: Kernel): string[] {
  const args = ['--dirname', directory, '--set-version', version, '--show-depends', '--all'];
  const lines = execFileSync('modprobe', [...args, ...modules], { encoding: 'utf8' }).split('\n');
  // What is built in is listed as such, and what several need is listed several times.
  return [...new Set(lines.flatMap((line) => /^insmod (\S+)/.exec(line)?.[1] ?? []))];
}

/** The "newc" format: a header of 6 + 13 * 8 characters, the name, the content, in words. */
export function archive(entries: Entry[]): Buffer {
  const end = { path: 'TRAILER!!!', mode: 0, content: Buffer.alloc(0) };
  return Buffer.concat([...entries, end].flatMap((entry, index) => blocksOf(entry, index + 1)));
}

function blocksOf({ path, mode, content }: Entry, inode: number): Buffer[] {
  const nameBytes = Buffer.byteLength(path) + 1;
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, nameBytes, 0];
  const header = fields.map((field) => field.toString(16).padStart(8, '0')).join('');
  return [padded(Buffer.from(`070701${header}${path}\0`)), padded(content)];
}

function padded(block: Buffer): Buffer {
  return Buffer.concat([block, Buffer.alloc(-block.length & 3)]);
}
