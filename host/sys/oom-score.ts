/** Who goes first when the whole machine is out of memory: the higher the score, the sooner. */
import { readFileSync, writeFileSync } from 'node:fs';
import { isErrno } from './errors.ts';

const file = '/proc/self/oom_score_adj';

/** One instance less is one call that fails; without its host all of them end. */
export const oomScore = {
  /** The controller's; the zygote and the embedded nats-server inherit it. */
  host: -900,
  /** PID 1 of a container: it ends with its function, and frees little by itself. */
  init: 300,
  function: 600,
} as const;

/**
 * Of this process, and of those it starts from now on. False when the kernel does not let us: for a
 * score below the inherited one it wants CAP_SYS_RESOURCE.
 */
export function setOomScore(score: number): boolean {
  try {
    writeFileSync(file, String(score));
    return true;
  } catch (error) {
    if (isErrno(error, 'EACCES', 'EPERM')) return false;
    throw error;
  }
}

export function ownOomScore(): number {
  return Number(readFileSync(file, 'latin1'));
}
