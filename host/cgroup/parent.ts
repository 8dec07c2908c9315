import { isErrno } from '../sys/errors.ts';
import type { ControlFiles } from './control-files.ts';

/** Makes our parent group; one that an earlier run left is taken over. */
export function makeParent(files: ControlFiles, path: string): void {
  try {
    files.makeGroup(path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}
