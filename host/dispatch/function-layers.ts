/**
 * The layers of a function on this host, from the bottom: those of its image, the base image's,
 * those of its `layers`, its own. Node.js and its libraries are above whatever an image has in
 * their places, so that any image will do.
 */
import type { Readable } from 'node:stream';
import { HatchError } from '../base/errors.ts';
import type { FunctionVersion } from '../function/record.ts';
import type { Digest } from '../image/digest.ts';
import type { LayerStore } from '../image/layer-store.ts';
import type { ImagePuller } from '../image/pull.ts';
import type { StartReads } from '../image/start-reads.ts';
import type { StoredImage, StoredLayer } from '../image/stored-image.ts';
import type { StorageDrivers } from '../storage/storage-drivers.ts';
import type { FunctionLayers } from './local-functions.ts';

export interface FunctionLayerSources {
  store: Pick<LayerStore, 'acquire' | 'image' | 'importAndAcquire'>;
  /** Images that functions name, from here or from registries. */
  puller: Pick<ImagePuller, 'acquire'>;
  /** Joins layers ahead where the function's driver does. */
  storage: Pick<StorageDrivers, 'of'>;
  startReads: Pick<StartReads, 'follow'>;
  /** Reference of the image that functions run in. */
  baseImage: string;
  /** The bundle, compressed; whoever unpacks it verifies it. */
  fetchLayer: (version: FunctionVersion) => Promise<Readable>;
  /** What a container's root calls a layer: the store's directory may be mounted elsewhere. */
  directoryOf: (layer: StoredLayer) => string;
}

/** As many as each storage driver is tested with. */
const stackLayersMax = 128;
/** What an image sets goes to each instance at its start. */
const environmentLengthMax = 64 * 1024;

/**
 * Makes sure that all layers of a version are unpacked here, and leases them.
 * @throws HatchError `image.*`; `host.unsupported` when its storage driver is not to be had here
 */
export async function loadFunctionLayers(
  sources: FunctionLayerSources,
  version: FunctionVersion,
): Promise<FunctionLayers> {
  const { store, puller, storage, startReads, baseImage, fetchLayer, directoryOf } = sources;
  const base = store.image(baseImage);
  if (base === undefined) {
    throw new HatchError(
      'image.not_found',
      `Cannot find base image "${baseImage}": import it with "hatch image import"`,
    );
  }
  const driver = storage.of(version.manifest.storage);
  // Each before what is imported next, which may evict what nobody holds.
  using held = new DisposableStack();
  const baseLease = held.use(store.acquire(base.layers.map(({ chainId }) => chainId)));
  const images: StoredImage[] = [];
  const { image, layers: shared } = version.images;
  for (const name of image === undefined ? shared : [image, ...shared])
    images.push(held.use(await puller.acquire(name)).image);
  const below = image === undefined ? undefined : images.shift();
  const { digest, diffId, sizeBytes } = version.layer;
  const top = held.use(
    await store.importAndAcquire({
      blob: () => fetchLayer(version),
      digest,
      sizeBytes,
      diffId,
      parentChainId: baseLease.layers.at(-1)?.chainId,
    }),
  );
  const own = top.layers.map(({ chainId }) => chainId);
  const lease = store.acquire([...stackOf({ base, below, above: images }), ...own]);
  try {
    const env = below === undefined ? {} : environmentOf(below);
    const prepared = await driver.prepare(lease.layers.map(({ path }) => path));
    const runtime = new Set(base.layers.map(({ chainId }) => chainId));
    const followed = lease.layers.map((one) => ({ ...one, ofRuntime: runtime.has(one.chainId) }));
    const reads = driver.readsLayers ? await startReads.follow(followed) : undefined;
    const release = (): void => {
      reads?.release();
      prepared.release();
      lease.release();
    };
    return { directories: lease.layers.map(directoryOf), env, startReads: reads, release };
  } catch (error) {
    lease.release();
    throw error;
  }
}

/** Images that were built upon the same one share layers: overlayfs takes each of them once. */
function stackOf(images: {
  base: StoredImage;
  below: StoredImage | undefined;
  above: readonly StoredImage[];
}): Digest[] {
  const idsOf = ({ layers }: StoredImage) => layers.map(({ chainId }) => chainId);
  const base = idsOf(images.base);
  const below = images.below === undefined ? [] : idsOf(images.below);
  const stack = [
    ...new Set([
      ...below.filter((id) => !base.includes(id)),
      ...base,
      ...images.above.flatMap((image) => idsOf(image)),
    ]),
  ];
  if (stack.length < stackLayersMax) return stack;
  throw new HatchError(
    'image.invalid',
    `Cannot join ${stack.length + 1} layers: a function has ${stackLayersMax} at most, ` +
      'those of its runtime included; join some of its images',
  );
}

/** Of the image, without names that mean something to us. */
function environmentOf({ reference, config }: StoredImage): Record<string, string> {
  const entries = Object.entries(config.env).filter(([name]) => !name.startsWith('HATCH_'));
  if (JSON.stringify(entries).length <= environmentLengthMax) return Object.fromEntries(entries);
  throw new HatchError(
    'image.invalid',
    `Cannot use image "${reference}": its environment variables have more than ` +
      `${environmentLengthMax} characters`,
  );
}
