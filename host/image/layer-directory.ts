/**
 * The directory into which one layer is unpacked: finds and makes the parents of entries without
 * ever leaving it, whatever symlinks the layer holds. Nobody else may write to the directory.
 */
import { closeSync, constants, fstatSync, lstatSync, readlinkSync, rmSync } from 'node:fs';
import type { Stats } from 'node:fs';
import { join } from 'node:path';
import { isErrno } from '../sys/errors.ts';
import {
  O_PATH,
  changeModeAt,
  changeOwnerAt,
  makeDirectoryAt,
  openAt,
  removeAt,
  resolve,
  setAttribute,
} from '../sys/file.ts';
import { invalidEntry } from './layer-path.ts';

/** An open directory of the layer, and where it is. Valid until the next call of `parentOf`. */
export interface OpenDirectory {
  fd: number;
  /** Relative to the layer's root, free of symlinks. */
  components: readonly string[];
  /** Absolute, on this host. */
  path: string;
}

// As the kernel's own limit for one lookup.
const symlinksMax = 40;
// Symlinks have been resolved by us: one that the kernel meets is an error.
const strictly = resolve.beneath | resolve.noSymlinks | resolve.noMagicLinks;
const hiddenErrors = ['ENOENT', 'ENOTDIR', 'ELOOP', 'EXDEV'];
const opaqueName = 'trusted.overlay.opaque';

export class LayerDirectory {
  readonly root: string;
  readonly #rootFd: number;
  readonly #lowerFds: number[];
  #last: { key: string; directory: OpenDirectory } | undefined;

  /** `lowers`: the unpacked layers below, uppermost first; they give parents their attributes. */
  constructor(root: string, lowers: readonly string[]) {
    this.root = root;
    const open = (path: string) =>
      openAt(-100, path, { flags: constants.O_DIRECTORY, resolve: resolve.noMagicLinks });
    this.#rootFd = open(root);
    this.#lowerFds = lowers.map(open);
  }

  [Symbol.dispose](): void {
    this.#forget();
    for (const fd of [this.#rootFd, ...this.#lowerFds]) closeSync(fd);
  }

  /** Opens the directory an entry belongs in, through symlinks, making what is missing. */
  parentOf(entry: readonly string[]): OpenDirectory {
    const wanted = entry.slice(0, -1);
    const key = wanted.join('/');
    // Entries come sorted more often than not.
    if (this.#last?.key === key) return this.#last.directory;
    const components = this.#resolve(wanted, entry.join('/'));
    const fd = this.#open(components, constants.O_DIRECTORY);
    this.#forget();
    const directory = { fd, components, path: join(this.root, ...components) };
    this.#last = { key, directory };
    return directory;
  }

  /** Opens a directory made by this layer, by its resolved components, while `use` runs. */
  within<T>(components: readonly string[], use: (fd: number) => T): T {
    const fd = this.#open(components, constants.O_DIRECTORY);
    try {
      return use(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** As `within`, but does nothing when a later entry has taken the place. */
  ifThere(components: readonly string[], flags: number, use: (fd: number) => void): void {
    const fd = this.openIfThere(components, flags);
    if (fd === undefined) return;
    try {
      use(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** The caller closes the descriptor. Undefined when a later entry has taken the place. */
  openIfThere(components: readonly string[], flags: number): number | undefined {
    try {
      return this.#open(components, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if (isErrno(error, ...hiddenErrors)) return undefined;
      throw error;
    }
  }

  /** What has that name in this layer, symlinks not followed. */
  look(parent: OpenDirectory, name: string): Stats | undefined {
    return lookAt(join(parent.path, name));
  }

  /** Removes a name from this layer, with all below it when it is a directory. */
  remove(parent: OpenDirectory, name: string, found: Stats): void {
    if (!found.isDirectory()) {
      removeAt(parent.fd, name);
      return;
    }
    rmSync(join(parent.path, name), { recursive: true });
    // The directory opened last may have been in it; `parent` itself is not.
    if (this.#last?.directory !== parent) this.#forget();
  }

  /** Hides what lower layers have in a directory. */
  makeOpaque(components: readonly string[]): void {
    this.within(components, (fd) => setAttribute(fd, opaqueName, Buffer.from('y')));
  }

  #resolve(wanted: readonly string[], entryPath: string): string[] {
    const queue = [...wanted];
    let resolved: string[] = [];
    let symlinks = 0;
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
      // Only a symlink's target can hold it; the root's parent is the root.
      if (name === '..') {
        resolved.pop();
        continue;
      }
      const path = [...resolved, name];
      const found = this.#find(path);
      if (found.kind === 'symlink') {
        if (++symlinks > symlinksMax)
          throw invalidEntry(entryPath, 'its parents are a symlink loop');
        if (found.target.startsWith('/')) resolved = [];
        queue.unshift(...found.target.split('/').filter((part) => part !== '' && part !== '.'));
        continue;
      }
      if (found.kind === 'other') throw invalidEntry(entryPath, `"${path.join('/')}" is a file`);
      if (found.kind === 'absent') this.#makeParent(resolved, name, found);
      resolved = path;
    }
    return resolved;
  }

  #find(path: readonly string[]): Found {
    const own = lookAt(join(this.root, ...path));
    if (own !== undefined) {
      // A whiteout of this layer: the directory is made anew, without what was in it.
      if (isWhiteout(own)) return { ...absent, replacesWhiteout: true };
      return describe(own, () => readlinkSync(join(this.root, ...path)));
    }
    for (const lowerFd of this.#lowerFds) {
      const fd = openInside(lowerFd, path.join('/'));
      if (fd === undefined) continue;
      try {
        const stats = fstatSync(fd);
        if (isWhiteout(stats)) return absent;
        if (stats.isDirectory()) return { ...absent, like: stats };
        const parentFd = openInside(lowerFd, path.slice(0, -1).join('/') || '.') ?? lowerFd;
        try {
          return describe(stats, () => readlinkSync(`/proc/self/fd/${parentFd}/${path.at(-1)}`));
        } finally {
          if (parentFd !== lowerFd) closeSync(parentFd);
        }
      } finally {
        closeSync(fd);
      }
    }
    return absent;
  }

  #makeParent(into: readonly string[], name: string, found: Absent): void {
    this.within(into, (fd) => {
      if (found.replacesWhiteout) removeAt(fd, name);
      makeDirectoryAt(fd, name, 0o755);
      changeOwnerAt(fd, name, { uid: found.like?.uid ?? 0, gid: found.like?.gid ?? 0 });
      changeModeAt(fd, name, (found.like?.mode ?? 0o755) & 0o7777);
    });
    if (found.replacesWhiteout) this.makeOpaque([...into, name]);
  }

  #open(components: readonly string[], flags: number): number {
    const path = components.length === 0 ? '.' : components.join('/');
    return openAt(this.#rootFd, path, { flags, resolve: strictly });
  }

  #forget(): void {
    if (this.#last !== undefined) closeSync(this.#last.directory.fd);
    this.#last = undefined;
  }
}

interface Absent {
  kind: 'absent';
  /** The directory of a lower layer that the new one merges with. */
  like: Stats | undefined;
  replacesWhiteout: boolean;
}
type Found =
  | Absent
  | { kind: 'directory' }
  | { kind: 'symlink'; target: string }
  | { kind: 'other' };

const absent: Absent = { kind: 'absent', like: undefined, replacesWhiteout: false };

/** The character device 0:0 that stands for "deleted". */
export function isWhiteout(stats: Stats): boolean {
  return stats.isCharacterDevice() && stats.rdev === 0;
}

function describe(stats: Stats, target: () => string): Found {
  if (stats.isDirectory()) return { kind: 'directory' };
  if (stats.isSymbolicLink()) return { kind: 'symlink', target: target() };
  return { kind: 'other' };
}

function lookAt(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** Undefined also when the way leads over a symlink: that name is hidden by an upper layer. */
function openInside(rootFd: number, path: string): number | undefined {
  try {
    return openAt(rootFd, path, { flags: O_PATH | constants.O_NOFOLLOW, resolve: strictly });
  } catch (error) {
    if (isErrno(error, ...hiddenErrors)) return undefined;
    throw error;
  }
}
