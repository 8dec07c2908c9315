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
  'ext4-prjquota': ['mkfs.ext4', '-q', '-O', 'quota,project', '-E', 'quotatype=prjquota'],
  xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
  'xfs-prjquota': ['mkfs.xfs', '-q', '-m', 'reflink=1'],
} as const;

export type DiskType = keyof typeof makers;

export class DiskImage implements Disposable {
  readonly #directory: string;
  readonly #mountOptions: string;
  readonly imageFile: string;
  readonly mountPoint: string;

  /** Needs root, and a mount namespace of the caller's own, which ends a mount with it. */
  constructor(type: DiskType, options: { sizeMiB?: number; parent?: string } = {}) {
    const { sizeMiB = 1024, parent = tmpdir() } = options;
    this.#mountOptions = type.endsWith('-prjquota') ? 'loop,prjquota' : 'loop';
    this.#directory = mkdtempSync(join(parent, `hatch-${type}-`));
    // Programs on it are run by users without rights.
    chmodSync(this.#directory, 0o755);
    this.imageFile = join(this.#directory, 'image');
    this.mountPoint = join(this.#directory, 'mount');
    writeFileSync(this.imageFile, '');
    truncateSync(this.imageFile, sizeMiB * MiB);
    mkdirSync(this.mountPoint);
    const [maker, ...args] = makers[type];
    run(maker, [...args, this.imageFile]);
    this.mount();
  }

  mount(): void {
    run('mount', ['-o', this.#mountOptions, this.imageFile, this.mountPoint]);
  }

  unmount(): void {
    run('umount', [this.mountPoint]);
  }

  [Symbol.dispose](): void {
    this.unmount();
    rmSync(this.#directory, { recursive: true });
  }
}

function run(command: string, args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
