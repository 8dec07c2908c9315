/** Gives back the room of layers that nothing needs. */
import type { LayerStore } from './layer-store.ts';

/**
 * Removes layers that no image has: what versions and pulls of the past left. With `images` also
 * those of images. What is pinned or mounted stays: a start holds its layers before it mounts them.
 */
export async function collectLayers(
  store: Pick<LayerStore, 'images' | 'layers' | 'removeLayer' | 'settled' | 'usage'>,
  options: { images: boolean },
): Promise<{ layers: number; freedBytes: number }> {
  const before = store.usage.usedBytes;
  const used = new Set(
    store.images().flatMap(({ layers }) => layers.map((layer) => layer.chainId)),
  );
  let layers = 0;
  for (const { chainId } of store.layers()) {
    if ((options.images || !used.has(chainId)) && store.removeLayer(chainId)) layers += 1;
  }
  const freedBytes = before - store.usage.usedBytes;
  await store.settled();
  return { layers, freedBytes };
}
