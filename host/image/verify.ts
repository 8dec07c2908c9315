/** Whether layers are still on the disk as they were unpacked. */
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { Digest } from './digest.ts';
import type { LayerStore } from './layer-store.ts';
import { compareTree } from './layer-tree.ts';
import type { TreeDifference } from './layer-tree.ts';

/**
 * Reads all of a layer and names what is not as it was. Throws `image.not_found`, also for a layer
 * that was stored before there were lists to compare with.
 */
export async function verifyLayer(
  store: Pick<LayerStore, 'acquire' | 'treePathOf'>,
  id: Digest,
): Promise<TreeDifference[]> {
  using lease = store.acquire([id]);
  const [layer] = lease.layers;
  if (layer === undefined) return [];
  try {
    return await compareTree(layer.path, store.treePathOf(layer));
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT')) throw cause;
    throw new HatchError(
      'image.not_found',
      `Cannot verify layer ${id}: it has no list of its files; remove it and pull it again`,
      { cause },
    );
  }
}
