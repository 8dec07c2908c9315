/**
 * How the directories of an overlay are told to the kernel: by descriptor, whatever their paths
 * look like, since the container reads in /proc/mounts what was told.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { O_PATH } from '../sys/file.ts';

/** `append`: one `lowerdir+` for each layer (Linux 6.8). `list`: all in one `lowerdir`. */
export type LowerOption = 'append' | 'list';

/** fsconfig(2) takes 256 bytes with the final NUL. */
export const valueBytesMax = 255;
/** The longest name that is told as it is. */
const plainCharsMax = 64;
// Overlayfs takes these for separators and escapes, and not everywhere for the same.
const special = /[\\:,]/;

/** Names directories to the kernel; `close` once the mount is made. */
export class LayerPaths {
  readonly #fds = new Map<string, number>();

  /**
   * `directories` are bottom first; the kernel wants the uppermost first. A list may be longer than
   * `valueBytesMax`.
   */
  lowerOptions(
    directories: readonly string[],
    option: LowerOption,
  ): { key: string; value: string }[] {
    const topFirst = directories.toReversed().map((path) => this.nameOf(path));
    if (option === 'append') return topFirst.map((value) => ({ key: 'lowerdir+', value }));
    return [{ key: 'lowerdir', value: topFirst.join(':') }];
  }

  /** Directories mostly have their parent in common: one descriptor does for all of them. */
  nameOf(path: string): string {
    const last = basename(path);
    if (special.test(last) || last.length > plainCharsMax) return this.#byDescriptor(path);
    return `${this.#byDescriptor(dirname(path))}/${last}`;
  }

  close(): void {
    for (const fd of this.#fds.values()) closeSync(fd);
    this.#fds.clear();
  }

  #byDescriptor(path: string): string {
    const fd = this.#fds.get(path) ?? openSync(path, O_PATH | constants.O_DIRECTORY);
    this.#fds.set(path, fd);
    return `/proc/self/fd/${fd}`;
  }
}
