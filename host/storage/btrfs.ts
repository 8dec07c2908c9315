/** The btrfs driver: stacks are read-only subvolumes, and roots are snapshots of them. */
import { closeSync, constants, mkdirSync, openSync, readdirSync, rmSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { HatchError, messageOf } from '../base/errors.ts';
import {
  createSubvolume,
  destroySubvolume,
  enableQuotas,
  isOnBtrfs,
  limitSubvolume,
  makeSubvolumeReadOnly,
  removeQuotaGroup,
  snapshotInBackground,
  snapshotSubvolume,
  subvolumeId,
} from '../sys/btrfs.ts';
import { cloneMount } from '../sys/mount.ts';
import { SnapshotDriver, type RootCopy, type SnapshotMaker } from './snapshot-driver.ts';
import type { StorageDriver } from './storage-driver.ts';

export interface BtrfsOptions {
  /** Made when it is missing; on btrfs. */
  directory: string;
  /** What each root may take for itself, its metadata included. */
  sizeBytes: number;
  /** How many to keep ready for each function that has been started. */
  spareCount?: number;
}

/**
 * Switches the quotas of the file system on.
 *
 * @throws HatchError `host.unsupported` when the directory is not on btrfs, or cannot have quotas
 */
export function openBtrfs({ directory, sizeBytes, spareCount = 0 }: BtrfsOptions): StorageDriver {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  if (!isOnBtrfs(directory))
    throw new HatchError(
      'host.unsupported',
      `Cannot use the storage driver btrfs: "${directory}" is not on btrfs`,
    );
  const fd = openSync(directory, constants.O_DIRECTORY);
  try {
    enableQuotas(fd);
  } catch (cause) {
    const message = `Cannot limit what a root takes on btrfs: ${messageOf(cause)}`;
    throw new HatchError('host.unsupported', message, { cause });
  } finally {
    closeSync(fd);
  }
  const maker = new SubvolumeMaker(directory);
  return new SnapshotDriver({ name: 'btrfs', maker, sizeBytes, spareCount });
}

interface Stack {
  name: string;
  path: string;
  fd: number;
}

interface Root extends RootCopy {
  name: string;
}

/** A directory with subvolumes in it. */
interface Place {
  path: string;
  fd: number;
}

class SubvolumeMaker implements SnapshotMaker<Stack, Root> {
  readonly #stacks: Place;
  readonly #roots: Place;
  readonly #run = `${randomBytes(4).toString('hex')}-`;
  #sequence = 0;

  constructor(directory: string) {
    const [stacks, roots] = ['stacks', 'roots'].map((name) => join(directory, name));
    this.#stacks = openPlace(stacks ?? '');
    this.#roots = openPlace(roots ?? '');
  }

  async makeStack(below: Stack | undefined): Promise<Stack> {
    const name = this.#nextName();
    const place = { directoryFd: this.#stacks.fd, name };
    if (below === undefined) createSubvolume(place);
    else await snapshotInBackground(below.fd, place);
    const path = join(this.#stacks.path, name);
    return { name, path, fd: openSync(path, constants.O_DIRECTORY) };
  }

  async sealStack({ fd }: Stack): Promise<void> {
    makeSubvolumeReadOnly(fd);
  }

  async destroyStack({ name, fd }: Stack): Promise<void> {
    closeSync(fd);
    await destroySubvolume({ directoryFd: this.#stacks.fd, name });
  }

  copyNow({ fd }: Stack, sizeBytes: number): Root {
    const name = this.#nextName();
    snapshotSubvolume(fd, { directoryFd: this.#roots.fd, name });
    return this.#limit(name, sizeBytes);
  }

  async copyAhead({ fd }: Stack, sizeBytes: number): Promise<Root> {
    const name = this.#nextName();
    await snapshotInBackground(fd, { directoryFd: this.#roots.fd, name });
    return this.#limit(name, sizeBytes);
  }

  destroyCopy({ name }: Root): Promise<void> {
    return destroyLimited(this.#roots, name);
  }

  async removeAll(): Promise<void> {
    for (const place of [this.#roots, this.#stacks]) {
      for (const name of readdirSync(place.path)) {
        if (!name.startsWith(this.#run)) await removeLeftover(place, name);
      }
    }
  }

  async close(): Promise<void> {
    closeSync(this.#stacks.fd);
    closeSync(this.#roots.fd);
  }

  #nextName(): string {
    return `${this.#run}${this.#sequence++}`;
  }

  #limit(name: string, sizeBytes: number): Root {
    const path = join(this.#roots.path, name);
    try {
      const fd = openSync(path, constants.O_DIRECTORY);
      try {
        limitSubvolume(fd, sizeBytes);
      } finally {
        closeSync(fd);
      }
      return { name, path, mountFd: cloneMount({ path, recursive: false }) };
    } catch (error) {
      // What is left of it is removed by `removeAll`; the reason is in `error`.
      destroyLimited(this.#roots, name).catch(() => undefined);
      throw error;
    }
  }
}

function openPlace(path: string): Place {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return { path, fd: openSync(path, constants.O_DIRECTORY) };
}

/** Its limit goes with it. */
async function destroyLimited(place: Place, name: string): Promise<void> {
  const fd = openSync(join(place.path, name), constants.O_DIRECTORY);
  let id: bigint;
  try {
    id = subvolumeId(fd);
  } finally {
    closeSync(fd);
  }
  await destroySubvolume({ directoryFd: place.fd, name });
  removeQuotaGroup(place.fd, id);
}

/** Of a run that was killed. */
async function removeLeftover(place: Place, name: string): Promise<void> {
  try {
    await destroyLimited(place, name);
  } catch {
    // Not a subvolume: nothing that we have made.
    rmSync(join(place.path, name), { recursive: true, force: true });
  }
}
