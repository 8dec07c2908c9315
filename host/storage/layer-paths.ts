/** How the directories of an overlay are told to the kernel, whatever their paths look like. */
import { closeSync, constants, openSync } from 'node:fs';
import { O_PATH } from '../sys/file.ts';

/** `append`: one `lowerdir+` for each layer (Linux 6.8). `list`: all in one `lowerdir`. */
export type LowerOption = 'append' | 'list';

/** fsconfig(2) takes 256 bytes with the final NUL. */
export const valueBytesMax = 255;
// Overlayfs takes these for separators and escapes, and not everywhere for the same.
const special = /[\\:,]/;

/** Names directories to the kernel; `close` once the mount is made. */
export class LayerPaths {
  readonly #fds: number[] = [];

  /**
   * `directories` are bottom first; the kernel wants the uppermost first. A list may be longer than
   * `valueBytesMax`: by short names that is from 15 layers on.
   */
  lowerOptions(
    directories: readonly string[],
    option: LowerOption,
  ): { key: string; value: string }[] {
    const topFirst = directories.toReversed();
    if (option === 'append')
      return topFirst.map((path) => ({ key: 'lowerdir+', value: this.short(path) }));
    const plain = topFirst.every((path) => !special.test(path)) ? topFirst.join(':') : undefined;
    const fits = plain !== undefined && Buffer.byteLength(plain) <= valueBytesMax;
    const value = fits ? plain : topFirst.map((path) => this.#byDescriptor(path)).join(':');
    return [{ key: 'lowerdir', value }];
  }

  /** The path itself or, when the kernel would misread or refuse that, one by descriptor. */
  short(path: string): string {
    if (special.test(path) || Buffer.byteLength(path) > valueBytesMax)
      return this.#byDescriptor(path);
    return path;
  }

  close(): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
  }

  #byDescriptor(path: string): string {
    const fd = openSync(path, O_PATH | constants.O_DIRECTORY);
    this.#fds.push(fd);
    return `/proc/self/fd/${fd}`;
  }
}
