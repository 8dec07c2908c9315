/**
 * A program in a mount namespace of its own: what it mounts is nobody else's business, and vanishes
 * with it. A thread cannot move its siblings there, so the process starts over.
 */
import { makeRootPrivate } from './mount.ts';
import { namespaceFlag, unshare } from './namespace.ts';

const mark = 'HATCH_MOUNT_NAMESPACE';

/** Needs root. This process becomes `args`, the first of which is the program's path. */
export function executeInOwnMounts(args: readonly string[], environment: NodeJS.ProcessEnv): void {
  unshare(namespaceFlag.mount);
  makeRootPrivate();
  const [program = ''] = args;
  process.execve?.(program, [...args], { ...environment, [mark]: String(process.pid) });
}

/** Whether this process was started by `executeInOwnMounts`; says so once. */
export function hasOwnMounts(): boolean {
  const marked = process.env[mark] === String(process.pid);
  delete process.env[mark];
  return marked;
}
