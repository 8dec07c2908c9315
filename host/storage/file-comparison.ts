/**
 * What a function really changed in a file that was copied up: its blocks against those of the
 * file in the layer. All of the host's comparisons take turns and share one allowance of bytes, so
 * that looking closely never becomes a load of its own.
 */
import { constants, openSync, closeSync, fstatSync, read, type Stats } from 'node:fs';
import { promisify } from 'node:util';
import type { CopyUp, FileAttribute } from '../base/channels.ts';

export type FileChanges = Required<Pick<CopyUp, 'bytesChanged' | 'attributesChanged'>>;

export interface ComparisonAllowance {
  /** In bytes of a file, each of which is read twice: of the copy and of the original. */
  bytesPerSecond: number;
  /** What may be saved up, and so the largest file that is compared. */
  bytesMax: number;
}

const defaultAllowance: ComparisonAllowance = { bytesPerSecond: 16 << 20, bytesMax: 64 << 20 };
const blockBytes = 4096;
const pieceBytes = 64 * blockBytes;
const readPiece = promisify(read);

export class FileComparison {
  readonly #allowance: ComparisonAllowance;
  #bytesLeft: number;
  #refilledAtMs = performance.now();
  #last: Promise<unknown> = Promise.resolve();

  constructor(allowance: ComparisonAllowance = defaultAllowance) {
    this.#allowance = allowance;
    this.#bytesLeft = allowance.bytesMax;
  }

  /**
   * Compares the file at `upperPath` with `lowerFd`, a path descriptor that stays the caller's.
   * Undefined when the allowance is used up, or the file has gone.
   */
  compare(files: { upperPath: string; lowerFd: number }): Promise<FileChanges | undefined> {
    const result = this.#last.then(() => this.#compareNow(files));
    const settled = result.catch(() => undefined);
    this.#last = settled;
    return settled;
  }

  async #compareNow(files: { upperPath: string; lowerFd: number }) {
    using opened = new DisposableStack();
    // The function's to change meanwhile: neither a link nor a pipe may take its place.
    const flags = constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOATIME;
    const upperFd = opened.adopt(openSync(files.upperPath, flags), closeSync);
    const [upper, lower] = [fstatSync(upperFd), fstatSync(files.lowerFd)];
    const commonBytes = Math.min(upper.size, lower.size);
    if (!upper.isFile() || !this.#take(commonBytes)) return undefined;
    const readable = openSync(`/proc/self/fd/${files.lowerFd}`, constants.O_NOATIME);
    const lowerFd = opened.adopt(readable, closeSync);
    const differing = await differingBytes({ upperFd, lowerFd, sizeBytes: commonBytes });
    // What it is longer may be a hole.
    const allocatedBytes = Math.max(0, upper.blocks * 512 - commonBytes);
    const addedBytes = Math.min(upper.size - commonBytes, allocatedBytes);
    return { bytesChanged: differing + addedBytes, attributesChanged: differences(upper, lower) };
  }

  #take(sizeBytes: number): boolean {
    const nowMs = performance.now();
    const { bytesPerSecond, bytesMax } = this.#allowance;
    const earned = ((nowMs - this.#refilledAtMs) / 1000) * bytesPerSecond;
    this.#bytesLeft = Math.min(bytesMax, this.#bytesLeft + earned);
    this.#refilledAtMs = nowMs;
    if (sizeBytes > this.#bytesLeft) return false;
    this.#bytesLeft -= sizeBytes;
    return true;
  }
}

/** Reading is for other threads; only the comparison of a piece, some 40 µs, is for this one. */
async function differingBytes(files: {
  upperFd: number;
  lowerFd: number;
  sizeBytes: number;
}): Promise<number> {
  const { upperFd, lowerFd, sizeBytes } = files;
  const [upper, lower] = [Buffer.allocUnsafe(pieceBytes), Buffer.allocUnsafe(pieceBytes)];
  let changed = 0;
  for (let at = 0; at < sizeBytes; at += pieceBytes) {
    const wanted = Math.min(pieceBytes, sizeBytes - at);
    const [{ bytesRead: inUpper }, { bytesRead: inLower }] = await Promise.all([
      readPiece(upperFd, upper, 0, wanted, at),
      readPiece(lowerFd, lower, 0, wanted, at),
    ]);
    // It was cut short meanwhile.
    const got = Math.min(inUpper, inLower);
    changed += differingIn(upper.subarray(0, got), lower.subarray(0, got));
    if (got < wanted) break;
  }
  return changed;
}

function differingIn(upper: Buffer, lower: Buffer): number {
  if (upper.equals(lower)) return 0;
  let changed = 0;
  for (let at = 0; at < upper.length; at += blockBytes) {
    const end = Math.min(at + blockBytes, upper.length);
    if (upper.compare(lower, at, end, at, end) !== 0) changed += end - at;
  }
  return changed;
}

/** Overlayfs gives a copy the attributes of its original: what differs, the function changed. */
function differences(upper: Stats, lower: Stats): FileAttribute[] {
  const changed: FileAttribute[] = [];
  if (upper.mode !== lower.mode) changed.push('mode');
  if (upper.uid !== lower.uid || upper.gid !== lower.gid) changed.push('owner');
  if (upper.mtimeMs !== lower.mtimeMs) changed.push('times');
  return changed;
}
