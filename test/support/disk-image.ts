/**
 * A file system of a test's own, in a sparse file: loop devices are not namespaced, so it is
 * attached only as long as it is mounted.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

const MiB = 2 ** 20;
const makers = {
  btrfs: ['mkfs.btrfs', '--quiet'],
  ext4: ['mkfs.ext4', '-q'],
  'ext4-prjquota': ['mkfs.ext4', '-q', '-O', 'quota,project', '-E', 'quotatype=prjquota'],
  xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
  'xfs-prjquota': ['mkfs.xfs', '-q', '-m', 'reflink=1'],
  // Compressed, the blocks of tests would be less than they are.
  zfs: ['zpool', 'create', '-o', 'ashift=12', '-o', 'cachefile=none', '-O', 'compression=off'],
} as const;

export type DiskType = keyof typeof makers;

export class DiskImage implements Disposable {
  readonly #directory: string;
  readonly #mountOptions: string;
  /** Of ZFS; it mounts itself, and brings what is below with it. */
  readonly #pool: string | undefined;
  /** Of a pool: the kernel's threads open its device, and may not see the image's mount. */
  #loopDevice = '';
  readonly type: DiskType;
  readonly imageFile: string;
  readonly mountPoint: string;

  /** Needs root, and a mount namespace of the caller's own, which ends a mount with it. */
  constructor(type: DiskType, options: { sizeMiB?: number; parent?: string } = {}) {
    const { sizeMiB = 1024, parent = tmpdir() } = options;
    this.type = type;
    this.#mountOptions = type.endsWith('-prjquota') ? 'loop,prjquota' : 'loop';
    this.#directory = mkdtempSync(join(parent, `hatch-${type}-`));
    // Programs on it are run by users without rights.
    chmodSync(this.#directory, 0o755);
    this.imageFile = join(this.#directory, 'image');
    this.mountPoint = join(this.#directory, 'mount');
    writeFileSync(this.imageFile, '');
    truncateSync(this.imageFile, sizeMiB * MiB);
    mkdirSync(this.mountPoint);
    this.#pool = type === 'zfs' ? basename(this.#directory) : undefined;
    const [maker, ...args] = makers[type];
    if (this.#pool === undefined) {
      run(maker, [...args, this.imageFile]);
      this.mount();
    } else {
      this.#attach();
      run(maker, [...args, '-m', this.mountPoint, this.#pool, this.#loopDevice]);
    }
  }

  mount(): void {
    if (this.#pool === undefined) {
      run('mount', ['-o', this.#mountOptions, this.imageFile, this.mountPoint]);
      return;
    }
    this.#attach();
    run('zpool', ['import', '-o', 'cachefile=none', '-f', '-d', this.#loopDevice, this.#pool]);
  }

  unmount(): void {
    if (this.#pool === undefined) {
      run('umount', [this.mountPoint]);
      return;
    }
    run('zpool', ['export', this.#pool]);
    run('losetup', ['--detach', this.#loopDevice]);
  }

  /** With all that was written so far. */
  usedBytes(): number {
    if (this.#pool !== undefined) {
      run('zpool', ['sync', this.#pool]);
      return Number(run('zfs', ['get', '-Hpo', 'value', 'used', this.#pool]));
    }
    run('sync', ['--file-system', this.mountPoint]);
    const { blocks, bfree, bsize } = statfsSync(this.mountPoint);
    return (blocks - bfree) * bsize;
  }

  /** File systems of the pool below its first, without its name. */
  datasets(): string[] {
    const pool = this.#pool ?? '';
    const names = run('zfs', ['list', '-Hro', 'name', pool]).split('\n').filter(Boolean);
    return names.filter((name) => name !== pool).map((name) => name.slice(pool.length + 1));
  }

  [Symbol.dispose](): void {
    this.unmount();
    rmSync(this.#directory, { recursive: true });
  }

  #attach(): void {
    this.#loopDevice = run('losetup', ['--find', '--show', this.imageFile]).trim();
  }
}

function run(command: string, args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
  return stdout;
}
