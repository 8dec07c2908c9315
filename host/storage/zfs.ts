/**
 * The zfs driver: stacks are file systems with a snapshot, and roots are clones of that. They lie
 * below the file system of the state directory, and are mounted nowhere: a descriptor holds each.
 */
import { close, closeSync, constants, mkdirSync, openSync, statSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { HatchError, messageOf } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import { createMount } from '../sys/mount.ts';
import { datasetOf, isOnZfs, Zfs, type ZfsProperties } from '../sys/zfs.ts';
import { SnapshotDriver, type RootCopy, type SnapshotMaker } from './snapshot-driver.ts';
import type { StorageDriver } from './storage-driver.ts';

export interface ZfsOptions {
  /** Made when it is missing; on zfs. */
  directory: string;
  /** What each root may take for itself, its metadata included. */
  sizeBytes: number;
  /** How many to keep ready for each function that has been started. */
  spareCount?: number;
}

/** Inherited by all that is below. */
const properties: ZfsProperties = {
  // Nobody but us mounts it.
  mountpoint: 'none',
  // ZFS_SNAPDIR_DISABLED: no root has a ".zfs". Releases before 2.3 do not know it.
  snapdir: 2n,
  // ZFS_SYNC_DISABLED: what is in it ends with this run, so fsync(2) need not wait for the disk.
  sync: 2n,
  atime: 0n,
};
const snapshotName = 'layers';
/** A container's last mount goes a moment after its last process. */
const busyLimitMs = 10_000;
const closeInBackground = promisify(close);

/** @throws HatchError `host.unsupported` when the directory is not on zfs, or zfs is too old */
export async function openZfs(options: ZfsOptions): Promise<StorageDriver> {
  const { directory, sizeBytes, spareCount = 0 } = options;
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  if (!isOnZfs(directory)) throw unsupported(`"${directory}" is not on zfs`);
  let zfs: Zfs | undefined;
  try {
    zfs = Zfs.open();
    if (zfs === undefined)
      throw unsupported('there is no libzfs_core.so.3; install the package libzfs6linux');
    const parent = await makeParent(zfs, directory);
    const maker = new CloneMaker(zfs, parent);
    return new SnapshotDriver({ name: 'zfs', maker, sizeBytes, spareCount });
  } catch (error) {
    zfs?.close();
    if (error instanceof HatchError) throw error;
    throw unsupported(`${messageOf(error)}; use OpenZFS 2.3 or newer`, error);
  }
}

/** Of all that the driver makes for this directory, by what only it has: its inode number. */
async function makeParent(zfs: Zfs, directory: string): Promise<string> {
  const fd = openSync(directory, constants.O_DIRECTORY);
  try {
    const name = `${datasetOf(fd)}/hatch-${statSync(directory).ino}`;
    await zfs.createFileSystem(name, properties).catch((error: unknown) => {
      // An earlier run's.
      if (!isErrno(error, 'EEXIST')) throw error;
    });
    return name;
  } finally {
    closeSync(fd);
  }
}

interface Stack {
  dataset: string;
  path: string;
  /** Of its mount; -1 once it is sealed. */
  fd: number;
}

interface Root extends RootCopy {
  dataset: string;
  /** Of a mount of ours, which shows owners as they are stored. */
  fd: number;
}

class CloneMaker implements SnapshotMaker<Stack, Root> {
  readonly #zfs: Zfs;
  readonly #parent: string;
  readonly #run = `${randomBytes(4).toString('hex')}-`;
  #sequence = 0;

  constructor(zfs: Zfs, parent: string) {
    this.#zfs = zfs;
    this.#parent = parent;
  }

  async makeStack(below: Stack | undefined): Promise<Stack> {
    const dataset = this.#nextName();
    if (below === undefined) await this.#zfs.createFileSystem(dataset, {});
    else await this.#zfs.clone({ snapshot: snapshotOf(below), name: dataset, properties: {} });
    try {
      const fd = mountDataset(dataset);
      return { dataset, path: `/proc/self/fd/${fd}`, fd };
    } catch (error) {
      await this.#destroy(dataset);
      throw error;
    }
  }

  async sealStack(stack: Stack): Promise<void> {
    await this.#zfs.snapshot(snapshotOf(stack));
    const { fd } = stack;
    stack.fd = -1;
    await closeInBackground(fd);
  }

  async destroyStack(stack: Stack): Promise<void> {
    if (stack.fd === -1) await this.#destroy(snapshotOf(stack));
    else await closeInBackground(stack.fd);
    await this.#destroy(stack.dataset);
  }

  copyNow(stack: Stack, sizeBytes: number): Root {
    const order = this.#order(stack, sizeBytes);
    this.#zfs.cloneNow(order);
    return this.#mount(order.name);
  }

  async copyAhead(stack: Stack, sizeBytes: number): Promise<Root> {
    const order = this.#order(stack, sizeBytes);
    await this.#zfs.clone(order);
    return this.#mount(order.name);
  }

  async destroyCopy({ dataset, fd }: Root): Promise<void> {
    // The last one to close it waits until all that was written is on the disk.
    await closeInBackground(fd);
    await this.#destroy(dataset);
  }

  removeAll(): Promise<void> {
    return whileBusy(() => this.#zfs.destroyBelow(this.#parent, { except: this.#run }));
  }

  async close(): Promise<void> {
    await this.#destroy(this.#parent).catch((error: unknown) => {
      // Another run's are there yet, or what could not be removed.
      if (!isErrno(error, 'EEXIST', 'EBUSY')) throw error;
    });
    this.#zfs.close();
  }

  /** By "quota", as "refquota" would count what a clone shares with its layers. */
  #order(stack: Stack, sizeBytes: number) {
    const quota = { quota: BigInt(sizeBytes) };
    return { snapshot: snapshotOf(stack), name: this.#nextName(), properties: quota };
  }

  #nextName(): string {
    return `${this.#parent}/${this.#run}${this.#sequence++}`;
  }

  #mount(dataset: string): Root {
    let fd: number | undefined;
    try {
      fd = mountDataset(dataset);
      return { dataset, path: `/proc/self/fd/${fd}`, fd, mountFd: mountDataset(dataset) };
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      // What is left of it is removed by `removeAll`; the reason is in `error`.
      this.#destroy(dataset).catch(() => undefined);
      throw error;
    }
  }

  #destroy(name: string): Promise<void> {
    return whileBusy(() => this.#zfs.destroy(name));
  }
}

function snapshotOf({ dataset }: Stack): string {
  return `${dataset}@${snapshotName}`;
}

/** Attached nowhere. */
function mountDataset(name: string): number {
  const options = [{ key: 'source', value: name }];
  return createMount({ type: 'zfs', options, attributes: 0 });
}

async function whileBusy(action: () => Promise<void>): Promise<void> {
  const deadline = performance.now() + busyLimitMs;
  for (let waitMs = 1; ; waitMs *= 2) {
    try {
      await action();
      return;
    } catch (error) {
      if (!isErrno(error, 'EBUSY') || performance.now() + waitMs > deadline) throw error;
      await sleep(waitMs);
    }
  }
}

function unsupported(reason: string, cause?: unknown): HatchError {
  const message = `Cannot use the storage driver zfs: ${reason}`;
  return new HatchError('host.unsupported', message, { cause });
}
