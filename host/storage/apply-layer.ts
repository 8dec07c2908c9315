/**
 * Lays one unpacked layer over a directory, as overlayfs would show it above: for drivers whose
 * roots are one tree. Nobody else may write to the directory meanwhile.
 */
import {
  constants,
  copyFileSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import type { Stats } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import {
  changeModeAt,
  changeTimeAt,
  getAttribute,
  listAttributes,
  makeDevice,
  makeFifoAt,
  setAttributeOfPath,
} from '../sys/file.ts';

/** How long it may keep the event loop at a time. */
const sliceMs = 2;
const AT_FDCWD = -100;
const opaqueAttribute = 'trusted.overlay.opaque';
const overlayPrefix = 'trusted.overlay.';

/**
 * Files become clones where both are on one file system that can, with owners, modes, times, hard
 * links and attributes of the layer's. The attributes of `directory` itself stay.
 */
export async function applyLayer(layer: string, directory: string): Promise<void> {
  let sliceEnd = performance.now() + sliceMs;
  for (const _step of merge(layer, directory, new Map())) {
    if (performance.now() < sliceEnd) continue;
    await setImmediate();
    sliceEnd = performance.now() + sliceMs;
  }
}

/**
 * Steps once for each name. Each directory on the way down was seen to be one, in the layer and in
 * the target: no symbolic link is followed.
 */
function* merge(from: string, into: string, links: Map<number, string>): Generator<undefined> {
  for (const name of readdirSync(from)) {
    const source = join(from, name);
    const target = join(into, name);
    const stat = lstatSync(source);
    const there = lstatSync(target, { throwIfNoEntry: false });
    const merges = stat.isDirectory() && there?.isDirectory() === true && !isOpaque(source);
    if (there !== undefined && !merges) yield* remove(target, there);
    if (stat.isDirectory()) {
      if (!merges) mkdirSync(target);
      yield* merge(source, target, links);
    }
    if (!isWhiteout(stat)) make({ source, target, stat, links });
    yield;
  }
}

function make(entry: {
  source: string;
  target: string;
  stat: Stats;
  links: Map<number, string>;
}): void {
  const { source, target, stat, links } = entry;
  const first = links.get(stat.ino);
  if (first !== undefined) {
    linkSync(first, target);
    return;
  }
  if (stat.nlink > 1 && !stat.isDirectory()) links.set(stat.ino, target);
  if (stat.isFile()) copyFileSync(source, target, constants.COPYFILE_FICLONE);
  else if (stat.isSymbolicLink()) symlinkSync(readlinkSync(source), target);
  else if (stat.isFIFO()) makeFifoAt(AT_FDCWD, target);
  else if (stat.isCharacterDevice() || stat.isBlockDevice()) makeNode(target, stat);
  lchownSync(target, stat.uid, stat.gid);
  if (!stat.isSymbolicLink()) changeModeAt(AT_FDCWD, target, stat.mode & 0o7777);
  // After the owner, whose change takes a file's capabilities away.
  copyAttributes(source, target);
  changeTimeAt(AT_FDCWD, target, stat.mtimeMs);
}

/** Any other node has no effect in a root, but is seen. */
function makeNode(path: string, stat: Stats): void {
  const { mode, rdev } = stat;
  const type = stat.isBlockDevice() ? 'block' : 'character';
  // glibc's major(3) and minor(3), of numbers that fit 32 bits.
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  makeDevice({ path, type, mode: mode & 0o7777, major, minor });
}

function copyAttributes(source: string, target: string): void {
  for (const name of listAttributes(source)) {
    const value = name.startsWith(overlayPrefix) ? undefined : getAttribute(source, name);
    if (value !== undefined) setAttributeOfPath(target, name, value);
  }
}

function* remove(path: string, stat: Stats): Generator<undefined> {
  if (!stat.isDirectory()) {
    unlinkSync(path);
    return;
  }
  for (const name of readdirSync(path)) {
    const child = join(path, name);
    yield* remove(child, lstatSync(child));
    yield;
  }
  rmdirSync(path);
}

function isWhiteout(stat: Stats): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0;
}

function isOpaque(path: string): boolean {
  return getAttribute(path, opaqueAttribute) !== undefined;
}
