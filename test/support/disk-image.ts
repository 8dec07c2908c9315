/**
 * A file system of a test's own, in a sparse file: loop devices are not namespaced, so it is
 * attached only as long as it is mounted.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const MiB = 2 ** 20;
const makers = {
  btrfs: ['mkfs.btrfs', '--quiet'],
  ext4: ['mkfs.ext4', '-q'],
  xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
} as const;

export type DiskType = keyof typeof makers;

export class DiskImage implements Disposable {
  readonly #directory: string;
  readonly imageFile: string;
  readonly mountPoint: string;

  /** Needs root, and a mount namespace of the caller's own, which ends a mount with it. */
  constructor(type: DiskType, options: { sizeMiB?: number; mountOptions?: string[] } = {}) {
    const { sizeMiB = 1024, mountOptions = [] } = options;
    this.#directory = mkdtempSync(join(tmpdir(), `hatch-${type}-`));
    // Programs on it are run by users without rights.
    chmodSync(this.#directory, 0o755);
    this.imageFile = join(this.#directory, 'image');
    this.mountPoint = join(this.#directory, 'mount');
    writeFileSync(this.imageFile, '');
    truncateSync(this.imageFile, sizeMiB * MiB);
    mkdirSync(this.mountPoint);
    const [maker, ...args] = makers[type];
    run(maker, [...args, this.imageFile]);
    run('mount', ['-o', ['loop', ...mountOptions].join(','), this.imageFile, this.mountPoint]);
  }

  [Symbol.dispose](): void {
    run('umount', [this.mountPoint]);
    rmSync(this.#directory, { recursive: true });
  }
}

function run(command: string, args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
