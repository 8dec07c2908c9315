/**
 * Scratch space on disk: pairs of directories, some kept ready, since making them takes a third of
 * the time of a root. Nothing limits how much a root writes here.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { Scratch, ScratchSpace } from './scratch.ts';

const run = promisify(execFile);
const trashName = 'trash';

export class DiskScratch implements ScratchSpace {
  readonly persistent = true;
  readonly #directory: string;
  readonly #spareCount: number;
  // Names are unique over runs: an overlay refuses directories that it was mounted on before.
  readonly #run = randomBytes(4).toString('hex');
  readonly #spares: string[] = [];
  #sequence = 0;
  #refill: Promise<void> | undefined;
  #removal: Promise<void> = Promise.resolve();
  #closed = false;

  /** `directory` is made when it is missing; `spareCount` pairs are kept ready in it. */
  constructor(options: { directory: string; spareCount: number }) {
    this.#directory = options.directory;
    this.#spareCount = options.spareCount;
    mkdirSync(join(options.directory, trashName), { recursive: true, mode: 0o700 });
    this.#startRefill();
  }

  take(sizeBytes: number | undefined): Scratch {
    if (sizeBytes !== undefined)
      throw new HatchError(
        'host.unsupported',
        'Cannot limit the size of a root on disk: keep roots in memory, or set no size',
      );
    const directory = this.#spares.pop() ?? this.#makeNow();
    this.#startRefill();
    return { directory, release: () => this.#remove(directory) };
  }

  async removeAll(): Promise<void> {
    const mine = `${this.#run}-`;
    for (const name of await readdir(this.#directory)) {
      if (name !== trashName && !name.startsWith(mine))
        await this.#remove(join(this.#directory, name));
    }
    for (const name of await readdir(join(this.#directory, trashName)))
      await removeTree(join(this.#directory, trashName, name));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#refill;
    for (const spare of this.#spares.splice(0)) await this.#remove(spare);
    await this.#removal.catch(() => undefined);
  }

  #makeNow(): string {
    const directory = this.#nextName();
    mkdirSync(directory, 0o700);
    mkdirSync(join(directory, 'upper'), 0o755);
    mkdirSync(join(directory, 'work'), 0o700);
    return directory;
  }

  #startRefill(): void {
    if (this.#refill !== undefined || this.#spares.length >= this.#spareCount) return;
    this.#refill = this.#makeSpares()
      // A full disk shows at the next start, which then makes its own pair and reports why not.
      .catch(() => undefined)
      .finally(() => {
        this.#refill = undefined;
      });
  }

  async #makeSpares(): Promise<void> {
    while (!this.#closed && this.#spares.length < this.#spareCount) {
      const directory = this.#nextName();
      await mkdir(directory, 0o700);
      await mkdir(join(directory, 'upper'), 0o755);
      await mkdir(join(directory, 'work'), 0o700);
      this.#spares.push(directory);
    }
  }

  #nextName(): string {
    return join(this.#directory, `${this.#run}-${this.#sequence++}`);
  }

  /** One tree at a time: removing many at once would take the disk from those who serve calls. */
  async #remove(directory: string): Promise<void> {
    const name = directory.slice(directory.lastIndexOf('/') + 1);
    // The rename makes it one step: what a crash interrupts is found in the trash, and only there.
    const trash = join(this.#directory, trashName, name);
    const removal = this.#removal
      .catch(() => undefined)
      .then(() => rename(directory, trash))
      .then(() => removeTree(trash));
    this.#removal = removal;
    await removal;
  }
}

async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    // A function may nest directories deeper than a path can be long: rm(1) walks by descriptors.
    if (!isErrno(error, 'ENAMETOOLONG')) throw error;
    await run('rm', ['-rf', '--one-file-system', '--', path]);
  }
}
