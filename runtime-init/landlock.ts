/** Which files of its root a function may change: by Landlock, where the kernel has it. */
import { closeSync, constants, openSync } from 'node:fs';
import { isErrno } from '../host/sys/errors.ts';
import { O_CLOEXEC, O_PATH } from '../host/sys/file.ts';
import { enterRuleset, fileAccess, makeFileRuleset, type FileRule } from '../host/sys/landlock.ts';

/** All is readable; nothing else than this may be written, even by who gains the right to. */
const directories: readonly (readonly [path: string, access: bigint])[] = [
  ['/', fileAccess.read],
  ['/dev', fileAccess.use],
  ['/dev/shm', fileAccess.change],
  ['/tmp', fileAccess.change],
  ['/function', fileAccess.change],
  ['/home/function', fileAccess.change],
];

/** In the container's root. `abi` 0: the kernel does not have it. Cannot be undone. */
export function restrictFiles(abi: number): void {
  if (abi > 0) enterRuleset(openRuleset(abi));
}

/** All of `restrictFiles` but entering: in any root. */
export function rehearseFileRules(abi: number): void {
  if (abi > 0) closeSync(openRuleset(abi));
}

function openRuleset(abi: number): number {
  const rules: FileRule[] = [];
  try {
    for (const [path, access] of directories) {
      const directoryFd = openDirectory(path);
      if (directoryFd !== undefined) rules.push({ directoryFd, access });
    }
    return makeFileRuleset(abi, rules);
  } finally {
    for (const { directoryFd } of rules) closeSync(directoryFd);
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
