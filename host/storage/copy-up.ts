/**
 * Which lower files overlayfs copied into an upper directory, found by the mark that it leaves on
 * each (`origin.ts`), and how much of each was changed (`file-comparison.ts`). Exact about which;
 * about how much was copied, see `bytesCopied` below.
 */
import { closeSync, constants, fstatSync, lstatSync, opendirSync, openSync } from 'node:fs';
import type { Dirent } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import type { CopyUp } from '../base/channels.ts';
import { isErrno } from '../sys/errors.ts';
import type { CopyUpTime } from './copy-up-probe.ts';
import { FileComparison } from './file-comparison.ts';
import { openLower, originHandle, type OriginHandle } from './origin.ts';
import type { WritableRoot } from './storage-driver.ts';

export type LayeredDirectory = Pick<WritableRoot, 'upperDirectory' | 'lowerDirectories'>;

/** All that was copied up into a root so far. */
export function findCopyUps(root: LayeredDirectory): Promise<CopyUp[]> {
  return new CopyUpTracker(root).look();
}

/** One for all roots of this process. */
const sharedComparison = new FileComparison();

// How long a look may keep the event loop at a time.
const sliceMs = 0.5;
const depthMax = 128;
// Older kernels stamp with the tick's time: a directory may change twice under one stamp.
const stampGranularityMs = 20;

/** What is known of a directory of the upper. */
interface Directory {
  /** Its change time when it was read; undefined while another change may hide behind that. */
  readAtNs: bigint | undefined;
  children: Map<string, Directory>;
}

/** A copy-up just found; its `upperPath` is good until the walk goes on. */
interface Found {
  copyUp: CopyUp;
  upperPath: string;
  inode: bigint;
  origin: OriginHandle;
}

/** Remembers what it has told, so that each call can be charged with its own copy-ups. */
export class CopyUpTracker {
  readonly #root: LayeredDirectory;
  readonly #entriesMax: number;
  readonly #comparison: FileComparison;
  readonly #timeOf: (inode: bigint) => CopyUpTime | undefined;
  readonly #top: Directory = { readAtNs: undefined, children: new Map() };
  /** Inodes by number and birth: a number alone is given out again. */
  readonly #told = new Set<string>();
  #last: Promise<unknown> = Promise.resolve();
  #complete = true;

  /**
   * `entriesMax` bounds the directory entries that one look examines; `timeOf` tells of the copy
   * that became an inode of the upper directory.
   */
  constructor(
    root: LayeredDirectory,
    options: {
      entriesMax?: number;
      comparison?: FileComparison;
      timeOf?: (inode: bigint) => CopyUpTime | undefined;
    } = {},
  ) {
    this.#root = root;
    this.#entriesMax = options.entriesMax ?? 4096;
    this.#comparison = options.comparison ?? sharedComparison;
    this.#timeOf = options.timeOf ?? (() => undefined);
  }

  /** False when the last look ended at a limit: there may be copy-ups that it did not see. */
  get complete(): boolean {
    return this.#complete;
  }

  /**
   * What was copied up since the last look. A directory that has not changed since is not read
   * again: with nothing written a look costs three system calls. Long looks give way to other work
   * every half a millisecond. Looks take turns; end the last one before the root is destroyed.
   */
  look(): Promise<CopyUp[]> {
    const look = this.#last.then(() => this.#lookNow());
    this.#last = look.catch(() => undefined);
    return look;
  }

  async #lookNow(): Promise<CopyUp[]> {
    const found: CopyUp[] = [];
    this.#complete = true;
    const steps = this.#walk(this.#root.upperDirectory, '', this.#top);
    let entries = 0;
    let sliceEnd = performance.now() + sliceMs;
    for (const step of steps) {
      if (step !== undefined) {
        found.push(await this.#complement(step));
        sliceEnd = performance.now() + sliceMs;
      }
      if (++entries > this.#entriesMax) {
        this.#complete = false;
        break;
      }
      if (performance.now() < sliceEnd) continue;
      await setImmediate();
      sliceEnd = performance.now() + sliceMs;
    }
    return found;
  }

  /**
   * Steps once for each directory and each entry. The function may rearrange its files meanwhile,
   * so directories are entered by descriptor and symbolic links never followed.
   */
  *#walk(path: string, seenAs: string, directory: Directory): Generator<Found | undefined, void> {
    const fd = openDirectory(path);
    if (fd === undefined) return;
    try {
      yield;
      const settledNs = BigInt(Date.now() - stampGranularityMs) * 1_000_000n;
      const stamp = fstatSync(fd, { bigint: true }).ctimeNs;
      const here = `/proc/self/fd/${fd}`;
      if (stamp !== directory.readAtNs) yield* this.#read(here, seenAs, directory);
      directory.readAtNs = stamp < settledNs ? stamp : undefined;
      const tooDeep = seenAs.split('/').length > depthMax;
      if (tooDeep && directory.children.size > 0) this.#complete = false;
      for (const [name, child] of tooDeep ? [] : directory.children)
        yield* this.#walk(`${here}/${name}`, `${seenAs}/${name}`, child);
    } finally {
      closeSync(fd);
    }
  }

  /** Examines the files of a directory and notes its directories. */
  *#read(here: string, seenAs: string, directory: Directory): Generator<Found | undefined, void> {
    const children = new Map<string, Directory>();
    for (const entry of entriesOf(here)) {
      const { name } = entry;
      if (entry.isDirectory())
        children.set(
          name,
          directory.children.get(name) ?? { readAtNs: undefined, children: new Map() },
        );
      yield entry.isFile() ? this.#examine(`${here}/${name}`, `${seenAs}/${name}`) : undefined;
    }
    directory.children = children;
  }

  #examine(upperPath: string, seenAs: string): Found | undefined {
    const origin = originHandle(upperPath);
    if (origin === undefined) return undefined;
    const stat = lstatSync(upperPath, { bigint: true, throwIfNoEntry: false });
    if (stat === undefined) return undefined;
    const inode = `${stat.ino} ${stat.birthtimeNs}`;
    if (this.#told.has(inode)) return undefined;
    this.#told.add(inode);
    const copyUp = { path: seenAs, bytesCopied: Number(stat.size) };
    return { copyUp, upperPath, inode: stat.ino, origin };
  }

  /** Adds what only the kernel and the file in the layer can tell. */
  async #complement({ copyUp, upperPath, inode, origin }: Found): Promise<CopyUp> {
    const time = this.#timeOf(inode);
    const lowerFd = openLower(origin, this.#root.lowerDirectories);
    if (lowerFd === undefined) return { ...copyUp, ...time };
    try {
      const bytes = bytesCopied(copyUp.bytesCopied, fstatSync(lowerFd).size);
      const changes = await this.#comparison.compare({ upperPath, lowerFd });
      return { ...copyUp, bytesCopied: bytes, ...changes, ...time };
    } finally {
      closeSync(lowerFd);
    }
  }
}

/**
 * Overlayfs copies all data of the lower file when that is first opened for writing, except with
 * O_TRUNC: then it copies none. What tells the two apart is that the file is now shorter. So a
 * file that was copied and cut later counts too little, and one that was emptied on opening and
 * has grown to its old size again too much.
 */
function bytesCopied(upperBytes: number, lowerBytes: number): number {
  return upperBytes < lowerBytes ? 0 : lowerBytes;
}

function openDirectory(path: string): number | undefined {
  try {
    return openSync(path, constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    // It was removed, or something else took its name: its old parent has changed, look again then.
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
}

function* entriesOf(path: string): Generator<Dirent, void> {
  // In pieces: a function may fill a directory with a million names.
  const directory = opendirSync(path);
  try {
    for (;;) {
      const entry = directory.readSync();
      if (entry === null) return;
      yield entry;
    }
  } finally {
    directory.closeSync();
  }
}
