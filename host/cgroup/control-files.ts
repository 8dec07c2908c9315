/** The seam between the drivers and the cgroup file systems: tests put a fake kernel here. */
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeSync,
} from 'node:fs';

export interface ControlFiles {
  makeGroup(path: string): void;
  /** rmdir(2): EBUSY while a process is in the group. */
  removeGroup(path: string): void;
  write(path: string, value: string): void;
  read(path: string): string;
  /** A close-on-exec descriptor for writing. */
  openForWriting(path: string): number;
  /** The names of the groups below. */
  children(path: string): string[];
}

export const controlFiles: ControlFiles = {
  makeGroup: (path) => mkdirSync(path, 0o755),
  removeGroup: (path) => rmdirSync(path),
  write(path, value) {
    const fd = openForWriting(path);
    try {
      // One write(2) a value: the kernel parses each write on its own.
      writeSync(fd, value);
    } finally {
      closeSync(fd);
    }
  },
  read: (path) => readFileSync(path, 'latin1'),
  openForWriting,
  children: (path) =>
    readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name),
};

/** Never creates: a missing control file is an error, not a new file. libuv adds O_CLOEXEC. */
function openForWriting(path: string): number {
  return openSync(path, constants.O_WRONLY);
}

/** The value of one line of a file such as `memory.events`: "name number" lines. */
export function fieldOf(text: string, name: string): number {
  for (const line of text.split('\n')) {
    const [key, value] = line.split(' ');
    if (key === name) return Number(value);
  }
  return 0;
}
