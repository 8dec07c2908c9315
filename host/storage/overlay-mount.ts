/** The overlay mount itself, with the reason for each of its options. */
import { createMount, mountAttribute } from '../sys/mount.ts';
import { LayerPaths } from './layer-paths.ts';
import type { LowerOption } from './layer-paths.ts';

/** Joins `lowerDirectories` (bottom first) with `upper` and `work` of `directory`. */
export function mountOverlay(options: {
  directory: string;
  lowerDirectories: readonly string[];
  lowerOption: LowerOption;
  persistent: boolean;
}): number {
  const paths = new LayerPaths();
  try {
    return createMount({
      type: 'overlay',
      options: [
        ...paths.lowerOptions(options.lowerDirectories, options.lowerOption),
        { key: 'upperdir', value: paths.short(`${options.directory}/upper`) },
        { key: 'workdir', value: paths.short(`${options.directory}/work`) },
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
      ],
      attributes: mountAttribute.noSuid | mountAttribute.noDev,
    });
  } finally {
    paths.close();
  }
}
