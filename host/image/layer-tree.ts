/**
 * What is in an unpacked layer, an entry a line, in one order: written when a layer is stored, and
 * made again from the disk to see whether it is still the same.
 */
import { createHash } from 'node:crypto';
import { createReadStream, lstatSync, readdirSync, readlinkSync } from 'node:fs';
import type { Stats } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../sys/errors.ts';
import { getAttribute, listAttributes } from '../sys/file.ts';

/** SHA-256 of files' content, in hexadecimal, by inode number. */
export type FileDigests = ReadonlyMap<number, string>;

export interface TreeDifference {
  /** Relative to the layer. */
  path: string;
  problem: 'changed' | 'missing' | 'unexpected';
}

const entriesPerChunk = 256;
const differencesMax = 100;

/** The list of a layer just unpacked, whose digests are known. In chunks of whole lines. */
export async function* treeOf(directory: string, digests: FileDigests): AsyncGenerator<string> {
  let lines: string[] = [];
  for (const entry of walk(directory, '')) {
    lines.push(lineOf(entry, digests.get(entry.stats.ino) ?? ''));
    if (lines.length < entriesPerChunk) continue;
    yield lines.join('');
    lines = [];
  }
  yield lines.join('');
}

/** Reads all of a layer, and names what is not as listed in `treeFile`; of that at most 100. */
export async function compareTree(directory: string, treeFile: string): Promise<TreeDifference[]> {
  const differences: TreeDifference[] = [];
  await using file = await open(treeFile);
  const listed = file.readLines()[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await listed.next();
    return done === true ? undefined : { line: `${value}\n`, path: pathIn(value) };
  };
  let expected = await next();
  for (const entry of walk(directory, '')) {
    while (expected !== undefined && isBefore(expected.path, entry.path)) {
      differences.push({ path: expected.path, problem: 'missing' });
      expected = await next();
    }
    if (expected?.path !== entry.path) {
      differences.push({ path: entry.path, problem: 'unexpected' });
    } else {
      const digest = entry.stats.isFile() ? await digestOfFile(join(directory, entry.path)) : '';
      if (lineOf(entry, digest) !== expected.line)
        differences.push({ path: entry.path, problem: 'changed' });
      expected = await next();
    }
    if (differences.length >= differencesMax) return differences;
  }
  for (; expected !== undefined && differences.length < differencesMax; expected = await next())
    differences.push({ path: expected.path, problem: 'missing' });
  return differences;
}

interface Entry {
  path: string;
  stats: Stats;
  target: string;
  attributes: string[];
}

/** Parents before what is in them, names in the order of their code units. */
function* walk(root: string, path: string): Generator<Entry> {
  const full = join(root, path);
  const stats = lstatSync(full, { throwIfNoEntry: false });
  if (stats === undefined) return;
  yield {
    path,
    stats,
    target: stats.isSymbolicLink() ? readlinkSync(full) : '',
    attributes: stats.isFile() || stats.isDirectory() ? attributesOf(full) : [],
  };
  if (!stats.isDirectory()) return;
  for (const name of readdirSync(full).toSorted(byCodeUnits)) yield* walk(root, join(path, name));
}

function lineOf({ path, stats, target, attributes }: Entry, digest: string): string {
  const { mode, uid, gid, rdev } = stats;
  // Of directories and links the size depends on the file system.
  const size = stats.isFile() ? stats.size : 0;
  const seconds = Math.floor(stats.mtimeMs / 1000);
  const facts = [path, mode, uid, gid, rdev, size, seconds, digest || target, ...attributes];
  return `${JSON.stringify(facts)}\n`;
}

function pathIn(line: string): string {
  try {
    const facts: unknown = JSON.parse(line);
    if (Array.isArray(facts) && typeof facts[0] === 'string') return facts[0];
  } catch {
    // Not written by us, or damaged: it equals nothing.
  }
  return '\uFFFF';
}

function attributesOf(path: string): string[] {
  return listAttributes(path)
    .filter((name) => name === 'trusted.overlay.opaque' || name.startsWith('user.'))
    .toSorted(byCodeUnits)
    .map((name) => `${name}=${getAttribute(path, name)?.toString('base64') ?? ''}`);
}

async function digestOfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 256 * 1024 }))
      hash.update(chunk as Buffer);
  } catch (error) {
    // A bad sector is a difference too.
    if (!isErrno(error, 'EIO', 'EBADMSG')) throw error;
    return 'unreadable';
  }
  return hash.digest('hex');
}

/** In the order of `walk`. */
function isBefore(path: string, other: string): boolean {
  const a = path.split('/');
  const b = other.split('/');
  for (let depth = 0; depth < Math.min(a.length, b.length); depth++) {
    const order = byCodeUnits(a[depth] ?? '', b[depth] ?? '');
    if (order !== 0) return order < 0;
  }
  return a.length < b.length;
}

function byCodeUnits(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
