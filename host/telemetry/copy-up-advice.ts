/**
 * What to do about copy-ups. Pure: the same for the files of one call, in its trace, and for the
 * sums of a function's calls, in `hatch doctor`.
 */
import { posix } from 'node:path';
import type { CopyUp } from '../base/channels.ts';

export interface Advice {
  reason: AdviceReason;
  /** The files it is for, largest first. */
  paths: string[];
  bytesCopied: number;
  /** What to do, as a sentence without its end. */
  text: string;
}

export type AdviceReason = 'metadata' | 'untouched' | 'rewritten' | 'amplified' | 'many';

/** From where on a copy is worth a word. */
export const adviceThresholds = {
  /** All files with the same advice together; less is copied in some 20 µs. */
  bytesCopiedMin: 64 << 10,
  /** Share of a file that was written: then nothing was gained by its copy. */
  rewrittenShare: 0.5,
  /** Bytes copied for each byte changed, for files of a size where blocks can be shared. */
  amplification: 8,
  amplifiedBytesMin: 1 << 20,
  /** Files of one directory. */
  manyFiles: 32,
} as const;

/** Largest first; each file is in one at most. */
export function adviseOn(copyUps: readonly CopyUp[]): Advice[] {
  const groups = new Map<AdviceReason, CopyUp[]>();
  const crowded = crowdedDirectories(copyUps);
  for (const copyUp of copyUps) {
    const reason = reasonOf(copyUp, crowded);
    if (reason === undefined) continue;
    groups.set(reason, [...(groups.get(reason) ?? []), copyUp]);
  }
  return [...groups]
    .map(([reason, files]) => adviceOf(reason, files))
    .filter(({ bytesCopied }) => bytesCopied >= adviceThresholds.bytesCopiedMin)
    .toSorted((a, b) => b.bytesCopied - a.bytesCopied);
}

/** How often each changed byte was copied; undefined when that is not known, or none was. */
export function amplificationOf({ bytesCopied, bytesChanged = 0 }: CopyUp): number | undefined {
  return bytesChanged === 0 ? undefined : bytesCopied / bytesChanged;
}

/** Whether only its owner, its mode, its times or its name made the kernel copy the file. */
export function isMetadataOnly(copyUp: CopyUp): boolean {
  const { bytesChanged, attributesChanged = [], systemCall } = copyUp;
  if (systemCall !== undefined) return metadataCalls.test(systemCall);
  return bytesChanged === 0 && attributesChanged.length > 0;
}

const metadataCalls = /chown|chmod|utime|xattr|^rename|^link/;

function reasonOf(copyUp: CopyUp, crowded: ReadonlySet<string>): AdviceReason | undefined {
  const { path, bytesCopied, bytesChanged } = copyUp;
  const { rewrittenShare, amplification, amplifiedBytesMin } = adviceThresholds;
  if (bytesCopied === 0) return undefined;
  if (isMetadataOnly(copyUp) && (bytesChanged ?? 0) === 0) return 'metadata';
  if (bytesChanged === 0) return 'untouched';
  if (crowded.has(posix.dirname(path))) return 'many';
  // A file too large to be compared is copied for a part of it, as far as anyone knows.
  const changed = bytesChanged ?? 0;
  if (changed >= rewrittenShare * bytesCopied) return 'rewritten';
  const isLarge = bytesCopied >= amplifiedBytesMin;
  return isLarge && changed * amplification <= bytesCopied ? 'amplified' : undefined;
}

function crowdedDirectories(copyUps: readonly CopyUp[]): Set<string> {
  const counts = new Map<string, number>();
  for (const { path } of copyUps) {
    const directory = posix.dirname(path);
    counts.set(directory, (counts.get(directory) ?? 0) + 1);
  }
  const crowded = [...counts].filter(([, count]) => count >= adviceThresholds.manyFiles);
  return new Set(crowded.map(([directory]) => directory));
}

const texts: Record<AdviceReason, string> = {
  metadata:
    'only owner, mode, times or name changed, yet all data was copied: set them when the ' +
    'function is built',
  untouched: 'opened for writing, and nothing was written that differs: open it for reading',
  rewritten:
    'mostly rewritten: write it to /tmp, a tmpfs, or replace it (O_TRUNC, rename), which copies ' +
    'nothing',
  amplified:
    'the first write copied all of it: a driver that shares blocks copies only what is written ' +
    '("storage": "btrfs" or "zfs"); or keep what changes in a file of its own',
  many: 'many files of one directory: have it in /tmp, a tmpfs, when what is written may go',
};

function adviceOf(reason: AdviceReason, files: CopyUp[]): Advice {
  const largestFirst = files.toSorted((a, b) => b.bytesCopied - a.bytesCopied);
  return {
    reason,
    paths: largestFirst.map(({ path }) => path),
    bytesCopied: files.reduce((sum, { bytesCopied }) => sum + bytesCopied, 0),
    text: texts[reason],
  };
}
