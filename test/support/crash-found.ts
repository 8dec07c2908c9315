/** What is said between the machine that is cut off and the one that cuts. */

/** How a file gets its next version. */
export const crashWays = [
  'overwritten',
  'overwritten, fsync',
  'replaced',
  'replaced, fsync',
] as const;
export type CrashWay = (typeof crashWays)[number];

/** A file after a cut. */
export interface Found {
  /** `FILE SYSTEM[, ROOT], WAY`. */
  file: string;
  isFull: boolean;
  /** All that it has parts of, 0 for what was never written. */
  versions: number[];
  error?: string;
}
