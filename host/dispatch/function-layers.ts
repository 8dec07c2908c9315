/** The layers of a function on this host: the base image below, the function's own on top. */
import type { Readable } from 'node:stream';
import { HatchError } from '../base/errors.ts';
import type { FunctionVersion } from '../function/record.ts';
import type { Digest } from '../image/digest.ts';
import type { LayerStore, StoredLayer } from '../image/layer-store.ts';
import type { StartReads } from '../image/start-reads.ts';
import type { StorageDrivers } from '../storage/storage-drivers.ts';
import type { FunctionLayers } from './local-functions.ts';

export interface FunctionLayerSources {
  store: Pick<LayerStore, 'acquire' | 'image' | 'importAndAcquire'>;
  /** Joins layers ahead where the function's driver does. */
  storage: Pick<StorageDrivers, 'of'>;
  startReads: Pick<StartReads, 'follow'>;
  /** Reference of the image that functions run in. */
  baseImage: string;
  /** Of the object store, compressed; whoever unpacks it verifies it. */
  fetchLayer: (digest: Digest) => Promise<Readable>;
  /** What a container's root calls a layer: the store's directory may be mounted elsewhere. */
  directoryOf: (layer: StoredLayer) => string;
}

/**
 * Makes sure that all layers of a version are unpacked here, and leases them.
 * @throws HatchError `image.not_found`, `image.invalid`, `image.cache_full`, `host.unsupported`
 *   when its storage driver is not to be had here
 */
export async function loadFunctionLayers(
  { store, storage, startReads, baseImage, fetchLayer, directoryOf }: FunctionLayerSources,
  version: FunctionVersion,
): Promise<FunctionLayers> {
  const base = store.image(baseImage);
  if (base === undefined) {
    throw new HatchError(
      'image.not_found',
      `Cannot find base image "${baseImage}": import it with "hatch image import"`,
    );
  }
  const driver = storage.of(version.manifest.storage);
  const baseIds = base.layers.map(({ chainId }) => chainId);
  // Before the import, which may evict what nobody holds.
  using baseLease = store.acquire(baseIds);
  const { digest, diffId, sizeBytes } = version.layer;
  using top = await store.importAndAcquire({
    blob: () => fetchLayer(digest),
    digest,
    sizeBytes,
    diffId,
    parentChainId: baseLease.layers.at(-1)?.chainId,
  });
  const lease = store.acquire([...baseIds, ...top.layers.map(({ chainId }) => chainId)]);
  try {
    const prepared = await driver.prepare(lease.layers.map(({ path }) => path));
    const reads = driver.readsLayers ? await startReads.follow(lease.layers) : undefined;
    const release = (): void => {
      reads?.release();
      prepared.release();
      lease.release();
    };
    return { directories: lease.layers.map(directoryOf), startReads: reads, release };
  } catch (error) {
    lease.release();
    throw error;
  }
}
