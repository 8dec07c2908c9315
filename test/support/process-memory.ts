/** Looks for bytes in all that a process has in its memory. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

const chunkBytes = 4 * 1024 * 1024;

/** Whether memory that process `pid` may write, and so all it ever made, holds `bytes`. */
export function memoryHolds(pid: number, bytes: Buffer): boolean {
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    return writableRanges(pid).some((range) => rangeHolds(memory, range, bytes));
  } finally {
    closeSync(memory);
  }
}

interface Range {
  start: number;
  end: number;
}

function writableRanges(pid: number): Range[] {
  const lines = readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n');
  return lines.flatMap((line) => {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? [];
    if (start === undefined || end === undefined) return [];
    return [{ start: Number.parseInt(start, 16), end: Number.parseInt(end, 16) }];
  });
}

function rangeHolds(memory: number, { start, end }: Range, bytes: Buffer): boolean {
  const chunk = Buffer.alloc(chunkBytes);
  // Chunks overlap, so that none cuts what is looked for in two.
  for (let at = start; at < end; at += chunkBytes - bytes.length) {
    let length = 0;
    try {
      length = readSync(memory, chunk, 0, Math.min(chunkBytes, end - at), at);
    } catch {
      // What was reserved and never had is not there to be read.
      return false;
    }
    if (chunk.subarray(0, length).includes(bytes)) return true;
  }
  return false;
}
