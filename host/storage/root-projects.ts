/** A project of its own for each root on disk, so that the file system limits what it takes. */
import { randomInt } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { inodesFor } from '../sys/mount.ts';
import {
  assignProject,
  enforcesProjectLimits,
  isProjectUnused,
  limitProject,
} from '../sys/project-quota.ts';

/** Far from what people number by hand. Each run begins elsewhere: others may use some. */
const firstProject = 2 ** 30;

export class RootProjects {
  readonly #fd: number;
  #next = firstProject + randomInt(firstProject);

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Undefined where the file system of `directory` does not keep limits of projects. */
  static open(directory: string): RootProjects | undefined {
    const fd = openSync(directory, 'r');
    if (enforcesProjectLimits(fd)) return new RootProjects(fd);
    closeSync(fd);
    return undefined;
  }

  /** What is made in this empty directory counts for the project from now on. */
  adopt(directory: string): number {
    while (!isProjectUnused(this.#fd, this.#next)) this.#next++;
    const project = this.#next++;
    const fd = openSync(directory, 'r');
    try {
      assignProject(fd, project);
    } finally {
      closeSync(fd);
    }
    return project;
  }

  limit(project: number, sizeBytes: number): void {
    limitProject(this.#fd, project, { bytesMax: sizeBytes, filesMax: inodesFor(sizeBytes) });
  }

  /** After its last file is gone. */
  forget(project: number): void {
    limitProject(this.#fd, project, { bytesMax: 0, filesMax: 0 });
  }

  close(): void {
    closeSync(this.#fd);
  }
}
