/**
 * The layers and images of this host: imported once, verified, unpacked, shared by all containers.
 * A listed image has all its layers: when one is evicted, its images are forgotten with it.
 */
import { rm } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { HatchError } from '../base/errors.ts';
import { chainId, chainIds } from './digest.ts';
import type { Digest } from './digest.ts';
import { LayerCache } from './layer-cache.ts';
import type { Lease } from './layer-cache.ts';
import { LayerFiles } from './layer-files.ts';
import { hostPlatform } from './manifest.ts';
import type { ImageConfig, Platform } from './manifest.ts';
import { blobPath, readImage } from './oci-layout.ts';
import type { LayoutImage } from './oci-layout.ts';
import { makeEvictionPolicy } from './policy/eviction-policy.ts';
import type { EvictionPolicyName } from './policy/eviction-policy.ts';
import type { ImageRecord, LayerRecord } from './records.ts';
import { parseReference } from './reference.ts';
import { defaultUnpackLimits, unpackLayer } from './unpack.ts';
import type { UnpackLimits } from './unpack.ts';

export interface StoredLayer {
  chainId: Digest;
  diffId: Digest;
  /** Of the blob it came from. */
  digest: Digest;
  parentChainId: Digest | undefined;
  /** Unpacked. */
  sizeBytes: number;
  /** Below `LayerStore.layersDirectory`, short enough to mount hundreds. */
  directoryName: string;
  /** Absolute. */
  path: string;
}

export interface StoredImage {
  /** Of the manifest. */
  digest: Digest;
  reference: string;
  config: ImageConfig;
  /** Bottom first. */
  layers: StoredLayer[];
}

export interface LayerImport {
  /** A path or a stream: tar, plain or compressed by gzip or zstd. */
  blob: string | Readable;
  /** Of the blob as it is. */
  digest: Digest;
  sizeBytes: number;
  diffId: Digest;
  /** The layer below, which must be stored; without it the layer is a bottom one. */
  parentChainId?: Digest | undefined;
}

export interface LayerStoreOptions {
  /** A directory that no other process uses. */
  root: string;
  /** For all unpacked layers together; an import needs its own size beside it for a moment. */
  capacityBytes?: number;
  /** Which layers go first when that is used up; default `gdsf`. */
  policy?: EvictionPolicyName;
  limits?: Partial<UnpackLimits>;
  /** A layer could not be deleted from the disk; it is tried again when the store is opened. */
  onCleanupError?: (error: unknown) => void;
}

const defaultCapacityBytes = 20 * 1024 ** 3;

export class LayerStore {
  readonly #files: LayerFiles;
  readonly #limits: UnpackLimits;
  readonly #cache: LayerCache<StoredLayer>;
  readonly #images = new Map<string, ImageRecord>();
  /** Layers being unpacked, by chain id and blob: a second import waits for the first. */
  readonly #flights = new Map<string, Promise<StoredLayer>>();
  readonly #cleanups = new Set<Promise<void>>();
  readonly #onCleanupError: (error: unknown) => void;

  private constructor(options: LayerStoreOptions) {
    this.#files = new LayerFiles(options.root);
    this.#limits = { ...defaultUnpackLimits, ...options.limits };
    this.#onCleanupError = options.onCleanupError ?? (() => {});
    this.#cache = new LayerCache({
      capacityBytes: options.capacityBytes ?? defaultCapacityBytes,
      policy: makeEvictionPolicy(options.policy ?? 'gdsf'),
      onEvict: (layer) => this.#discard(layer),
    });
  }

  /** Opens or makes the store, clearing what a crash left. */
  static async open(options: LayerStoreOptions): Promise<LayerStore> {
    const store = new LayerStore(options);
    const { layers, images } = await store.#files.load();
    for (const { pinned, ...record } of layers)
      store.#cache.restore(store.#storedLayer(record), { pinned });
    for (const image of images) store.#images.set(image.reference, image);
    store.#cache.evictExcess();
    return store;
  }

  /** The parent directory of all layers. */
  get layersDirectory(): string {
    return this.#files.layersDirectory;
  }

  /** Bytes of all unpacked layers, those of them that are held, and how many there may be. */
  get usage(): { usedBytes: number; heldBytes: number; capacityBytes: number } {
    const { usedBytes, heldBytes, capacityBytes } = this.#cache;
    return { usedBytes, heldBytes, capacityBytes };
  }

  /**
   * Imports an image from an OCI layout directory. Layers that are stored already are not read
   * again. Throws `image.invalid`, `image.not_found`, or `image.cache_full`.
   */
  async importLayout(options: {
    directory: string;
    /** What the image is called here; by default as in the layout, or its digest. */
    reference?: string;
    /** Which image of the layout, by its name there; needed when there are several. */
    name?: string;
    platform?: Platform;
  }): Promise<StoredImage> {
    const image = await readImage(options.directory, {
      platform: options.platform ?? hostPlatform(),
      ...(options.name === undefined ? {} : { reference: options.name }),
    });
    const { digest, config } = image;
    const reference = options.reference ?? image.reference ?? digest;
    if (reference !== digest) parseReference(reference);
    const record = { reference, digest, chainIds: chainIds(config.diffIds), config };
    // Layers of one image must not push out each other.
    using leases = new DisposableStack();
    for (const layer of layerImports(options.directory, image)) {
      const id = chainId(layer.parentChainId, layer.diffId);
      while (!this.#cache.has(id)) await this.importLayer(layer);
      leases.use(this.#cache.acquire([id]));
    }
    await this.#files.writeImage(record);
    this.#images.set(reference, record);
    return this.#storedImage(record);
  }

  /**
   * Imports one layer. Imports of the same layer at the same time unpack it once. Acquire the
   * layer at once if it has to stay. Throws `image.invalid`, `image.not_found` when the parent is
   * not stored, or `image.cache_full`.
   */
  async importLayer(layer: LayerImport): Promise<StoredLayer> {
    const id = chainId(layer.parentChainId, layer.diffId);
    const key = `${id} ${layer.digest}`;
    const stored = this.#cache.get(id);
    const flight = stored ?? this.#flights.get(key);
    if (flight !== undefined) {
      if (typeof layer.blob !== 'string') layer.blob.destroy();
      if (stored !== undefined) this.#cache.touch(id);
      return await flight;
    }
    const started = this.#ingest(id, layer).finally(() => this.#flights.delete(key));
    this.#flights.set(key, started);
    return await started;
  }

  layer(id: Digest): StoredLayer | undefined {
    return this.#cache.get(id);
  }

  /** All layers: first those that may be evicted, the next to go first. */
  layers(): StoredLayer[] {
    return this.#cache.layers();
  }

  image(reference: string): StoredImage | undefined {
    const record = this.#images.get(reference);
    return record === undefined ? undefined : this.#storedImage(record);
  }

  images(): StoredImage[] {
    return [...this.#images.values()].map((record) => this.#storedImage(record));
  }

  /**
   * Forgets an image and removes those of its layers that no other image has; what is pinned or
   * mounted stays until room is needed after its release. False when there is no such image.
   */
  async removeImage(reference: string): Promise<boolean> {
    const record = this.#images.get(reference);
    if (record === undefined) return false;
    this.#images.delete(reference);
    await this.#files.removeImage(reference);
    const used = new Set([...this.#images.values()].flatMap((image) => image.chainIds));
    for (const id of record.chainIds.toReversed()) {
      if (!used.has(id)) this.removeLayer(id);
    }
    return true;
  }

  /** Removes a layer, and the images that need it. False when it is unknown, pinned or mounted. */
  removeLayer(id: Digest): boolean {
    const layer = this.#cache.get(id);
    if (layer === undefined || !this.#cache.remove(id)) return false;
    this.#discard(layer);
    return true;
  }

  /** Leases layers, all or none, until the lease is released. Throws `image.not_found`. */
  acquire(ids: readonly Digest[]): Lease<StoredLayer> {
    return this.#cache.acquire(ids);
  }

  /** Keeps a layer until `unpin`, over restarts too. Throws `image.not_found`. */
  async pin(id: Digest): Promise<void> {
    this.#cache.pin(id);
    await this.#writePin(id);
  }

  async unpin(id: Digest): Promise<void> {
    this.#cache.unpin(id);
    await this.#writePin(id);
  }

  isPinned(id: Digest): boolean {
    return this.#cache.isPinned(id);
  }

  /** Pinned or leased. */
  isHeld(id: Digest): boolean {
    return this.#cache.isHeld(id);
  }

  /** Counts as a use. Throws `image.not_found`. */
  touch(id: Digest): void {
    this.#cache.touch(id);
  }

  /** Writes down the order of use and waits until evicted layers are off the disk. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#flights.values());
    await this.#files.writeOrder(this.#cache.layers().map((layer) => layer.chainId));
    await this.settled();
  }

  /** Waits until all that was evicted or removed so far is off the disk. */
  async settled(): Promise<void> {
    while (this.#cleanups.size > 0) await Promise.all(this.#cleanups);
  }

  async #ingest(id: Digest, layer: LayerImport): Promise<StoredLayer> {
    const parents = this.#stackFrom(layer.parentChainId);
    // Their directories are read while unpacking.
    using _parents = this.#cache.acquire(parents.map((parent) => parent.chainId));
    const ingest = await this.#files.startIngest();
    try {
      const { unpackedBytes } = await this.#unpack(layer, ingest, parents);
      const { diffId, digest, parentChainId } = layer;
      const { pinned: _pinned, ...record } = await this.#files.publish(ingest, {
        chainId: id,
        diffId,
        digest,
        parentChainId,
        sizeBytes: unpackedBytes,
        pinned: false,
      });
      return this.#admit(this.#storedLayer(record));
    } finally {
      await rm(ingest, { recursive: true, force: true });
    }
  }

  async #unpack(
    layer: LayerImport,
    directory: string,
    parents: StoredLayer[],
  ): Promise<{ unpackedBytes: number }> {
    const roomBytes = Math.max(this.#cache.capacityBytes - this.#cache.heldBytes, 0);
    const unpackedBytesMax = Math.min(this.#limits.unpackedBytesMax, roomBytes);
    try {
      return await unpackLayer({
        source: layer,
        directory,
        lowers: parents.map((parent) => parent.path),
        limits: { ...this.#limits, unpackedBytesMax },
      });
    } catch (cause) {
      const limit = cause instanceof HatchError ? cause.details['limit'] : undefined;
      if (limit !== 'unpackedBytesMax' || unpackedBytesMax === this.#limits.unpackedBytesMax)
        throw cause;
      throw new HatchError(
        'image.cache_full',
        `Cannot store layer ${layer.digest}: it needs more than the ${roomBytes} of ` +
          `${this.#cache.capacityBytes} bytes that are not pinned or mounted`,
        { cause, details: { roomBytes, ...this.usage } },
      );
    }
  }

  /** A layer on disk becomes known, or goes when there is no room or it came twice. */
  #admit(layer: StoredLayer): StoredLayer {
    const existing = this.#cache.get(layer.chainId);
    if (existing !== undefined) {
      this.#discard(layer);
      return existing;
    }
    try {
      this.#cache.add(layer);
      return layer;
    } catch (error) {
      this.#discard(layer);
      throw error;
    }
  }

  /** A layer and all below it, uppermost first. */
  #stackFrom(top: Digest | undefined): StoredLayer[] {
    const stack: StoredLayer[] = [];
    for (let id = top; id !== undefined; id = stack.at(-1)?.parentChainId) {
      const layer = this.#cache.get(id);
      if (layer !== undefined) stack.push(layer);
      // Further down only the attributes of made-up parents would be lost.
      else if (stack.length > 0) return stack;
      else
        throw new HatchError(
          'image.not_found',
          `Cannot import a layer upon ${id}: import that layer first`,
        );
    }
    return stack;
  }

  /** Of a layer that the cache no longer has. */
  #discard(layer: StoredLayer): void {
    // Unless the same layer is here under another name.
    if (!this.#cache.has(layer.chainId)) this.#forgetImagesWith(layer.chainId);
    this.#inBackground(this.#files.discard(layer.directoryName));
  }

  #forgetImagesWith(id: Digest): void {
    for (const image of this.#images.values()) {
      if (!image.chainIds.includes(id)) continue;
      this.#images.delete(image.reference);
      this.#inBackground(this.#files.removeImage(image.reference));
    }
  }

  #inBackground(work: Promise<void>): void {
    const cleanup = work.catch(this.#onCleanupError).finally(() => this.#cleanups.delete(cleanup));
    this.#cleanups.add(cleanup);
  }

  async #writePin(id: Digest): Promise<void> {
    const layer = this.#cache.get(id);
    if (layer === undefined) return;
    const { path: _path, ...record } = layer;
    await this.#files.writeLayer({ ...record, pinned: this.#cache.isPinned(id) });
  }

  #storedLayer(record: Omit<LayerRecord, 'pinned'>): StoredLayer {
    const { parentChainId, ...rest } = record;
    return { ...rest, parentChainId, path: this.#files.pathOf(record.directoryName) };
  }

  #storedImage(record: ImageRecord): StoredImage {
    const layers = record.chainIds.flatMap((id) => this.#cache.get(id) ?? []);
    return { digest: record.digest, reference: record.reference, config: record.config, layers };
  }
}

function layerImports(directory: string, image: LayoutImage): LayerImport[] {
  const ids = chainIds(image.config.diffIds);
  return image.manifest.layers.flatMap(({ digest, size }, index) => {
    const diffId = image.config.diffIds[index];
    if (diffId === undefined) return [];
    const parentChainId = ids[index - 1];
    const blob = blobPath(directory, digest);
    return [{ blob, digest, sizeBytes: size, diffId, parentChainId }];
  });
}
