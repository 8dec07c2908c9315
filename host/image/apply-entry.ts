/**
 * Applies one entry of a layer's tar to the layer's directory by the rules of the OCI image
 * specification, whiteouts in overlayfs's form.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  futimesSync,
  write,
  writeSync,
} from 'node:fs';
import { promisify } from 'node:util';
import type { Header } from 'tar-stream';
import {
  changeModeAt,
  changeOwnerAt,
  changeTimeAt,
  makeDirectoryAt,
  makeFifoAt,
  makeHardLinkAt,
  makeSymlinkAt,
  makeWhiteoutAt,
  openAt,
  resolve,
  setAttribute,
} from '../sys/file.ts';
import { isWhiteout } from './layer-directory.ts';
import type { LayerDirectory, OpenDirectory } from './layer-directory.ts';
import { entryComponents, invalidEntry } from './layer-path.ts';

/** A header whose fields have been checked and extended by its pax records. */
export interface CheckedHeader {
  type: Header['type'];
  path: string;
  components: string[];
  linkTarget: string;
  mode: number;
  uid: number;
  gid: number;
  timeMs: number;
  attributes: [name: string, value: string][];
}

/** What an entry left behind, for the work that must wait until all are applied. */
export interface Made {
  /** Resolved: free of symlinks when it was made. */
  components: string[];
  kind: 'file' | 'directory' | 'other';
  timeMs: number;
  /** Of a file: SHA-256 of its content in hexadecimal, and its inode number. */
  content?: { digest: string; inode: number };
}

const ownerMax = 0xfffffffe;
const timeSecondsMax = 2 ** 33;
const syncWriteBytesMax = 64 * 1024;
const whiteoutPrefix = '.wh.';
const opaqueMarker = '.wh..wh..opq';
const writeAsync = promisify(write);

export function checkHeader(header: Header): CheckedHeader {
  const pax = (header.pax ?? {}) as Record<string, string>;
  const path = header.name;
  if (Object.keys(pax).some((key) => key.startsWith('GNU.sparse.')))
    throw invalidEntry(path, 'sparse files are not supported, write it with "--format=posix"');
  const seconds = pax['mtime'] === undefined ? header.mtime.getTime() / 1000 : Number(pax['mtime']);
  const checked: CheckedHeader = {
    type: header.type,
    path,
    components: entryComponents(path),
    linkTarget: header.linkname ?? '',
    mode: header.mode & 0o7777,
    uid: pax['uid'] === undefined ? header.uid : Number(pax['uid']),
    gid: pax['gid'] === undefined ? header.gid : Number(pax['gid']),
    timeMs: Math.min(Math.max(seconds, 0), timeSecondsMax) * 1000,
    attributes: allowedAttributes(pax, path),
  };
  for (const owner of [checked.uid, checked.gid]) {
    if (!Number.isInteger(owner) || owner < 0 || owner > ownerMax)
      throw invalidEntry(path, `its owner is ${owner}`);
  }
  if (!Number.isFinite(checked.timeMs) || !Number.isInteger(header.mode))
    throw invalidEntry(path, 'its header holds no proper time or mode');
  if (header.size > 0 && header.type !== 'file' && header.type !== 'contiguous-file')
    throw invalidEntry(path, 'it has data without being a file');
  return checked;
}

export async function applyEntry(
  layer: LayerDirectory,
  header: CheckedHeader,
  content: AsyncIterable<Uint8Array>,
): Promise<Made | undefined> {
  const name = header.components.at(-1);
  if (name === undefined) return applyRoot(layer, header);
  const parent = layer.parentOf(header.components);
  if (name.startsWith(whiteoutPrefix)) {
    applyWhiteout(layer, parent, { name, path: header.path });
    return undefined;
  }
  const kind = kindOf(header.type);
  const made: Made = { components: [...parent.components, name], kind, timeMs: header.timeMs };
  const hidden = clearName(layer, parent, { name, isDirectory: kind === 'directory' });
  switch (header.type) {
    case 'file':
    case 'contiguous-file':
      made.content = await makeFile(parent, header, content);
      break;
    case 'directory':
      makeDirectory(layer, parent, { name, header, hidden });
      break;
    case 'symlink':
      if (header.linkTarget === '') throw invalidEntry(header.path, 'its target is empty');
      makeSymlinkAt(parent.fd, name, header.linkTarget);
      setOwnerAndTime(parent, name, header);
      break;
    case 'link':
      makeHardLink(layer, header);
      break;
    case 'fifo':
      makeFifoAt(parent.fd, name);
      changeOwnerAt(parent.fd, name, header);
      changeModeAt(parent.fd, name, header.mode);
      break;
    case 'character-device':
    case 'block-device':
    default:
      throw invalidEntry(header.path, `entries of type "${header.type}" are not allowed in layers`);
  }
  return made;
}

function kindOf(type: Header['type']): Made['kind'] {
  if (type === 'directory') return 'directory';
  return type === 'file' || type === 'contiguous-file' ? 'file' : 'other';
}

function applyRoot(layer: LayerDirectory, header: CheckedHeader): Made {
  if (header.type !== 'directory') throw invalidEntry(header.path, 'the root must be a directory');
  layer.within([], (fd) => setMetadata(fd, header));
  return { components: [], kind: 'directory', timeMs: header.timeMs };
}

function applyWhiteout(
  layer: LayerDirectory,
  parent: OpenDirectory,
  entry: { name: string; path: string },
): void {
  if (entry.name === opaqueMarker) {
    layer.makeOpaque(parent.components);
    return;
  }
  const deleted = entry.name.slice(whiteoutPrefix.length);
  // Other names with the double prefix are aufs's own records, which mean nothing here.
  if (deleted.startsWith(whiteoutPrefix)) return;
  if (deleted === '' || deleted === '.' || deleted === '..')
    throw invalidEntry(entry.path, 'it deletes no name');
  const found = layer.look(parent, deleted);
  // A whiteout hides lower layers only: what this layer itself brings stays.
  if (found === undefined) makeWhiteoutAt(parent.fd, deleted);
  else if (found.isDirectory()) layer.makeOpaque([...parent.components, deleted]);
}

/** Makes way for a new entry; true when lower layers' content of that name is deleted. */
function clearName(
  layer: LayerDirectory,
  parent: OpenDirectory,
  entry: { name: string; isDirectory: boolean },
): boolean {
  const found = layer.look(parent, entry.name);
  if (found === undefined || (entry.isDirectory && found.isDirectory())) return false;
  layer.remove(parent, entry.name, found);
  return isWhiteout(found);
}

async function makeFile(
  parent: OpenDirectory,
  header: CheckedHeader,
  content: AsyncIterable<Uint8Array>,
): Promise<{ digest: string; inode: number }> {
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  const fd = openAt(parent.fd, header.components.at(-1) ?? '', {
    flags: O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW,
    mode: 0o600,
    resolve: resolve.beneath | resolve.noSymlinks | resolve.noMagicLinks,
  });
  try {
    const digest = createHash('sha256');
    for await (const chunk of content) {
      digest.update(chunk);
      await writeWhole(fd, chunk);
    }
    setMetadata(fd, header);
    return { digest: digest.digest('hex'), inode: fstatSync(fd).ino };
  } finally {
    closeSync(fd);
  }
}

function makeDirectory(
  layer: LayerDirectory,
  parent: OpenDirectory,
  entry: { name: string; header: CheckedHeader; hidden: boolean },
): void {
  const components = [...parent.components, entry.name];
  if (layer.look(parent, entry.name) === undefined) makeDirectoryAt(parent.fd, entry.name, 0o700);
  if (entry.hidden) layer.makeOpaque(components);
  layer.within(components, (fd) => setMetadata(fd, entry.header));
}

function makeHardLink(layer: LayerDirectory, header: CheckedHeader): void {
  const target = entryComponents(header.linkTarget);
  const targetName = target.at(-1);
  if (targetName === undefined) throw invalidEntry(header.path, 'its target is the root');
  const from = layer.parentOf(target);
  const found = layer.look(from, targetName);
  if (found === undefined || found.isDirectory() || isWhiteout(found))
    throw invalidEntry(header.path, `its target "${header.linkTarget}" is no file of this layer`);
  const to = layer.parentOf(header.components).components;
  const name = header.components.at(-1) ?? '';
  layer.within(from.components, (fromFd) =>
    layer.within(to, (toFd) =>
      makeHardLinkAt({ directoryFd: fromFd, name: targetName }, { directoryFd: toFd, name }),
    ),
  );
}

async function writeWhole(fd: number, chunk: Uint8Array): Promise<void> {
  let offset = 0;
  while (offset < chunk.length) {
    // A small write is faster than a trip through the thread pool.
    if (chunk.length <= syncWriteBytesMax) offset += writeSync(fd, chunk, offset);
    else offset += (await writeAsync(fd, chunk, offset)).bytesWritten;
  }
}

/** The order matters: chown clears setuid bits and capabilities, and all of them change times. */
function setMetadata(fd: number, header: CheckedHeader): void {
  fchownSync(fd, header.uid, header.gid);
  for (const [name, value] of header.attributes) setAttribute(fd, name, Buffer.from(value));
  fchmodSync(fd, header.mode);
  futimesSync(fd, header.timeMs / 1000, header.timeMs / 1000);
}

function setOwnerAndTime(parent: OpenDirectory, name: string, header: CheckedHeader): void {
  changeOwnerAt(parent.fd, name, header);
  changeTimeAt(parent.fd, name, header.timeMs);
}

/**
 * User attributes only: `trusted.overlay.*` would change the meaning of the mount, capabilities
 * would be granted by it, and labels belong to this host's own policy.
 */
function allowedAttributes(pax: Record<string, string>, path: string): [string, string][] {
  const prefix = 'SCHILY.xattr.';
  const attributes: [string, string][] = [];
  for (const [key, value] of Object.entries(pax)) {
    const name = key.slice(prefix.length);
    if (!key.startsWith(`${prefix}user.`) || name.startsWith('user.overlay.')) continue;
    // The tar reader decodes UTF-8; the replacement character says that bytes were lost.
    if (value.includes('\uFFFD'))
      throw invalidEntry(path, `its attribute "${name}" is not UTF-8, which is not supported`);
    attributes.push([name, value]);
  }
  return attributes;
}
