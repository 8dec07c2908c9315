/**
 * Which files of its root a function may change, and which TCP ports it may connect to: by
 * Landlock, where the kernel has it.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { isErrno } from '../host/sys/errors.ts';
import { O_CLOEXEC, O_PATH } from '../host/sys/file.ts';
import { enterRuleset, fileAccess, makeRuleset, type FileRule } from '../host/sys/landlock.ts';

/** All is readable; nothing else than this may be written, even by who gains the right to. */
const directories: readonly (readonly [path: string, access: bigint])[] = [
  ['/', fileAccess.read],
  ['/dev', fileAccess.use],
  ['/dev/shm', fileAccess.change],
  ['/tmp', fileAccess.change],
  ['/function', fileAccess.change],
  ['/home/function', fileAccess.change],
];

export interface Restrictions {
  /** 0: the kernel does not have it. */
  abi: number;
  /** Undefined: all, as for who has no network to reach by them. */
  connectTcpPorts?: readonly number[] | undefined;
  /** Directories that may be changed too. */
  volumes?: readonly string[] | undefined;
}

/** In the container's root. Cannot be undone. */
export function restrict(restrictions: Restrictions): void {
  if (restrictions.abi > 0) enterRuleset(openRuleset(restrictions));
}

/** All of `restrict` but entering: in any root. */
export function rehearseRestrictions(abi: number): void {
  if (abi > 0) closeSync(openRuleset({ abi, connectTcpPorts: [1] }));
}

function openRuleset({ abi, connectTcpPorts, volumes = [] }: Restrictions): number {
  const files: FileRule[] = [];
  const changed = volumes.map((path) => [path, fileAccess.change] as const);
  try {
    for (const [path, access] of [...directories, ...changed]) {
      const directoryFd = openDirectory(path);
      if (directoryFd !== undefined) files.push({ directoryFd, access });
    }
    return makeRuleset(abi, { files, connectTcpPorts });
  } finally {
    for (const { directoryFd } of files) closeSync(directoryFd);
  }
}

/** An image need not have it, and may have a symbolic link there: neither gets a rule. */
function openDirectory(path: string): number | undefined {
  try {
    return openSync(path, O_PATH | O_CLOEXEC | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
}
