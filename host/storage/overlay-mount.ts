/** The overlay mount itself, with the reason for each of its options. */
import { mkdirSync, rmdirSync } from 'node:fs';
import { HatchError } from '../base/errors.ts';
import {
  cloneMount,
  createMount,
  detachMount,
  mountAttribute,
  mountWithData,
} from '../sys/mount.ts';
import { LayerPaths, valueBytesMax } from './layer-paths.ts';
import type { LowerOption } from './layer-paths.ts';

const attributes = mountAttribute.noSuid | mountAttribute.noDev;
/** mount(2) takes a page with the final NUL. */
const dataBytesMax = 4095;

/** Joins `lowerDirectories` (bottom first) with `upper` and `work` of `directory`. */
export function mountOverlay(options: {
  directory: string;
  lowerDirectories: readonly string[];
  lowerOption: LowerOption;
  persistent: boolean;
}): number {
  const paths = new LayerPaths();
  try {
    const lowers = paths.lowerOptions(options.lowerDirectories, options.lowerOption);
    const all: TextOption[] = [
      ...lowers,
      { key: 'upperdir', value: paths.nameOf(`${options.directory}/upper`) },
      { key: 'workdir', value: paths.nameOf(`${options.directory}/work`) },
      // Without it an unmount writes back the whole file system below the upper. It makes
      // fsync(2) do nothing, which fits an upper that is thrown away; memory has no use for it.
      ...(options.persistent ? [{ key: 'volatile' }] : []),
      // Keeps the names of a hard-linked lower file one file, and marks its copy like any other:
      // with "off" a copy-up breaks the link and leaves no trace of where it came from.
      { key: 'index', value: 'on' },
      // A copied file has its data at once: a file that has only metadata in the upper would be
      // marked as copied long before its bytes are.
      { key: 'metacopy', value: 'off' },
      // Renaming a lower directory is EXDEV, as on any mount boundary, and no attribute of an
      // image's layer can make a directory show the contents of another.
      { key: 'redirect_dir', value: 'nofollow' },
    ];
    if (lowers.every(({ value }) => Buffer.byteLength(value) <= valueBytesMax))
      return createMount({ type: 'overlay', options: all, attributes });
    return mountByList(all, options.directory);
  } finally {
    paths.close();
  }
}

type TextOption = { key: string } | { key: string; value: string };

/**
 * The older system call takes far longer lists, but only attaches: so it is attached for a moment
 * on a directory beside the upper one.
 */
function mountByList(options: readonly TextOption[], directory: string): number {
  const data = options
    .map((option) => ('value' in option ? `${option.key}=${option.value}` : option.key))
    .join(',');
  if (Buffer.byteLength(data) > dataBytesMax)
    throw new HatchError(
      'host.unsupported',
      `Cannot join so many layers: this kernel takes ${dataBytesMax} bytes of names for a mount; ` +
        'use fewer layers, or Linux 6.8 or newer',
      { details: { dataBytes: data.length } },
    );
  const path = `${directory}/merged`;
  mkdirSync(path);
  try {
    mountWithData({ type: 'overlay', path, attributes, data });
    try {
      return cloneMount({ path, recursive: false });
    } finally {
      detachMount(path);
    }
  } finally {
    rmdirSync(path);
  }
}
