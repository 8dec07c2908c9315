/** Groups in a temp directory that behave like the kernel's: making one fills it with files. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { type ControlFiles, controlFiles } from '../../../host/cgroup/control-files.ts';

export interface FakeKernel extends ControlFiles {
  readonly root: string;
  /** "file=value" in the order of writing, relative to the root. */
  readonly writes: string[];
  /** Throws the given errno at the next write to a file of this name. */
  failAt(file: string, code: string): void;
  /** Puts a process into a group. */
  occupy(group: string, pid: number): void;
  set(file: string, value: string): void;
  /** Whole content of a file. */
  get(file: string): string;
  /** Takes the directory away. */
  dispose(): void;
}

/** `filesOf` lists the files, with their values, that a group at a path relative to root has. */
export function fakeKernel(
  hierarchies: readonly string[],
  filesOf: (group: string) => Record<string, string>,
): FakeKernel {
  const root = mkdtempSync(join(tmpdir(), 'hatch-cgroup-'));
  const writes: string[] = [];
  const failures = new Map<string, string>();
  const fill = (path: string) => {
    for (const [file, value] of Object.entries(filesOf(relative(root, path))))
      writeFileSync(join(path, file), value);
  };
  for (const hierarchy of hierarchies) mkdirSync(join(root, hierarchy), { recursive: true });
  for (const hierarchy of hierarchies) fill(join(root, hierarchy));
  return {
    root,
    writes,
    failAt: (file, code) => failures.set(file, code),
    occupy: (group, pid) => writeFileSync(join(root, group, 'cgroup.procs'), `${pid}\n`),
    set: (file, value) => writeFileSync(join(root, file), value),
    get: (file) => readFileSync(join(root, file), 'utf8'),
    dispose: () => rmSync(root, { recursive: true }),
    read: (path) => controlFiles.read(path),
    children: (path) => controlFiles.children(path),
    openForWriting: (path) => controlFiles.openForWriting(path),
    makeGroup(path) {
      mkdirSync(path);
      fill(path);
    },
    removeGroup(path) {
      const entries = readdirSync(path, { withFileTypes: true });
      const occupied = readFileSync(join(path, 'cgroup.procs'), 'utf8') !== '';
      if (occupied || entries.some((entry) => entry.isDirectory())) throw errno('EBUSY');
      rmSync(path, { recursive: true });
    },
    write(path, value) {
      const file = relative(root, path);
      writes.push(`${file}=${value}`);
      for (const [name, code] of failures)
        if (file.endsWith(name) && failures.delete(name)) throw errno(code);
      controlFiles.write(path, value);
    },
  };
}

function errno(code: string): Error {
  return Object.assign(new Error(`${code}: fake`), { code });
}
