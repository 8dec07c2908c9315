/**
 * Scratch space on disk: pairs of directories, some kept ready, since making them takes a third of
 * the time of a root. How much a root writes is limited by a project quota, on file systems that
 * have them.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import { RootProjects } from './root-projects.ts';
import type { Scratch, ScratchSpace } from './scratch.ts';

const run = promisify(execFile);
const trashName = 'trash';

interface Pair {
  directory: string;
  /** Undefined where there are none. */
  project: number | undefined;
}

export class DiskScratch implements ScratchSpace {
  readonly persistent = true;
  readonly #directory: string;
  readonly #spareCount: number;
  // Names are unique over runs: an overlay refuses directories that it was mounted on before.
  readonly #run = randomBytes(4).toString('hex');
  readonly #spares: Pair[] = [];
  readonly #sizeBytes: number | undefined;
  readonly #projects: RootProjects | undefined;
  #sequence = 0;
  #refill: Promise<void> | undefined;
  #removal: Promise<void> = Promise.resolve();
  #closed = false;

  /**
   * `directory` is made when it is missing; `spareCount` pairs are kept ready in it. `sizeBytes` is
   * what each root may take, if it does not say so itself; without it as much as there is.
   *
   * @throws HatchError `host.unsupported` when the file system keeps no such limit
   */
  constructor(options: { directory: string; spareCount: number; sizeBytes?: number }) {
    this.#directory = options.directory;
    this.#sizeBytes = options.sizeBytes;
    this.#spareCount = options.spareCount;
    mkdirSync(join(options.directory, trashName), { recursive: true, mode: 0o700 });
    this.#projects = RootProjects.open(options.directory);
    this.#requireLimits(options.sizeBytes);
    this.#startRefill();
  }

  take(sizeBytes = this.#sizeBytes): Scratch {
    this.#requireLimits(sizeBytes);
    const pair = this.#spares.pop() ?? this.#makeNow();
    this.#startRefill();
    const { directory, project } = pair;
    if (sizeBytes !== undefined && project !== undefined) this.#projects?.limit(project, sizeBytes);
    return { directory, release: () => this.#release(pair) };
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
    for (const spare of this.#spares.splice(0)) await this.#release(spare);
    await this.#removal.catch(() => undefined);
    this.#projects?.close();
  }

  #makeNow(): Pair {
    const directory = this.#nextName();
    mkdirSync(directory, 0o700);
    const project = this.#projects?.adopt(directory);
    mkdirSync(join(directory, 'upper'), 0o755);
    mkdirSync(join(directory, 'work'), 0o700);
    return { directory, project };
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
      const project = this.#projects?.adopt(directory);
      await mkdir(join(directory, 'upper'), 0o755);
      await mkdir(join(directory, 'work'), 0o700);
      this.#spares.push({ directory, project });
    }
  }

  #nextName(): string {
    return join(this.#directory, `${this.#run}-${this.#sequence++}`);
  }

  #requireLimits(sizeBytes: number | undefined): void {
    if (sizeBytes === undefined || this.#projects !== undefined) return;
    throw new HatchError(
      'host.unsupported',
      `Cannot limit the size of a root in "${this.#directory}": mount its file system, ext4 or ` +
        'xfs, with the option prjquota (Linux 5.14), keep roots in memory, or set no size',
    );
  }

  async #release({ directory, project }: Pair): Promise<void> {
    await this.#remove(directory);
    if (project !== undefined) this.#projects?.forget(project);
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
