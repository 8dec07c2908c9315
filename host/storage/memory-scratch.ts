/**
 * Scratch space in memory: a tmpfs of its own for each root, attached nowhere. Three times as fast
 * to make as directories on ext4, limited in size, charged to the cgroup that writes, gone with one
 * close however many files it holds, and gone with this process if that dies.
 */
import { close, closeSync, mkdirSync } from 'node:fs';
import { promisify } from 'node:util';
import { ReadyStock } from '../base/ready-stock.ts';
import { createMount, mountAttribute } from '../sys/mount.ts';
import type { Scratch, ScratchSpace } from './scratch.ts';

const closeInBackground = promisify(close);
const inodesMin = 4096;
// An inode costs the kernel about 1 KiB that `size` does not count: one for each 4 KiB of it.
const bytesPerInode = 4096;

export interface MemoryScratchOptions {
  /** The limit of each root. */
  sizeBytes: number;
  /** How many to keep ready: making one is half of what a root costs. */
  spareCount?: number;
}

interface Tmpfs {
  fd: number;
  directory: string;
}

export class MemoryScratch implements ScratchSpace {
  readonly persistent = false;
  readonly #sizeBytes: number;
  readonly #spares: ReadyStock<Tmpfs>;

  constructor({ sizeBytes, spareCount = 0 }: MemoryScratchOptions) {
    this.#sizeBytes = sizeBytes;
    this.#spares = new ReadyStock({
      count: spareCount,
      make: () => makeTmpfs(sizeBytes),
      discard: ({ fd }) => closeInBackground(fd),
    });
  }

  /** Resolves when the spare ones are there. */
  fill(): Promise<void> {
    return this.#spares.fill();
  }

  take(sizeBytes = this.#sizeBytes): Scratch {
    const spare = sizeBytes === this.#sizeBytes ? this.#spares.take() : undefined;
    const { fd, directory } = spare ?? makeTmpfs(sizeBytes);
    // The last close frees every page: not on this thread.
    return { directory, release: () => closeInBackground(fd) };
  }

  /** Nothing survives the process that made it. */
  async removeAll(): Promise<void> {}

  close(): Promise<void> {
    return this.#spares.close();
  }
}

function makeTmpfs(sizeBytes: number): Tmpfs {
  const inodes = Math.max(inodesMin, Math.ceil(sizeBytes / bytesPerInode));
  const fd = createMount({
    type: 'tmpfs',
    options: [
      { key: 'size', value: String(sizeBytes) },
      { key: 'nr_inodes', value: String(inodes) },
      { key: 'mode', value: '0700' },
    ],
    attributes: mountAttribute.noSuid | mountAttribute.noDev,
  });
  const directory = `/proc/self/fd/${fd}`;
  try {
    mkdirSync(`${directory}/upper`, 0o755);
    mkdirSync(`${directory}/work`, 0o700);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return { fd, directory };
}
