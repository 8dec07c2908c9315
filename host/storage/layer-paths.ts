/** How the directories of an overlay are told to the kernel, whatever their paths look like. */
import { closeSync, constants, openSync } from 'node:fs';
import { HatchError } from '../base/errors.ts';
import { O_PATH } from '../sys/file.ts';
import type { MountOption } from '../sys/mount.ts';

/**
 * `append`: one `lowerdir+` for each layer (Linux 6.8). `list`: all in one `lowerdir`, which has to
 * fit into fsconfig(2)'s 255 bytes; by short names that is 14 layers or a few more.
 */
export type LowerOption = 'append' | 'list';

// fsconfig(2) takes 256 bytes with the final NUL.
const valueBytesMax = 255;
// Overlayfs takes these for separators and escapes, and not everywhere for the same.
const special = /[\\:,]/;

/** Names directories to fsconfig(2); `close` once the mount is made. */
export class LayerPaths {
  readonly #fds: number[] = [];

  /** `directories` are bottom first; the kernel wants the uppermost first. */
  lowerOptions(directories: readonly string[], option: LowerOption): MountOption[] {
    const topFirst = directories.toReversed();
    if (option === 'append')
      return topFirst.map((path) => ({ key: 'lowerdir+', value: this.short(path) }));
    const plain = topFirst.every((path) => !special.test(path)) ? topFirst.join(':') : undefined;
    const value =
      plain !== undefined && Buffer.byteLength(plain) <= valueBytesMax
        ? plain
        : topFirst.map((path) => this.#byDescriptor(path)).join(':');
    if (value.length > valueBytesMax)
      throw new HatchError(
        'host.unsupported',
        `Cannot join ${directories.length} layers: this kernel takes ${valueBytesMax} bytes of ` +
          'layer names for a mount; use fewer layers, or Linux 6.8 or newer',
        { details: { layers: directories.length, valueBytes: value.length } },
      );
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
