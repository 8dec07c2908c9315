/**
 * The layers and images of this host: imported once, verified, unpacked, shared by all containers.
 * A listed image has all its layers: when one is evicted, its images are forgotten with it.
 */
import { rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { channels } from '../base/channels.ts';
import { HatchError } from '../base/errors.ts';
import { chainId, type Digest } from './digest.ts';
import { cacheFull, diskFull } from './disk-full.ts';
import type { Blob, TakenBlob } from './downloads.ts';
import { fileOf, layerImports, layersFrom } from './image-import.ts';
import type { IdentifiedLayer, ImageImport, LayerImport } from './image-import.ts';
import { ImageNames } from './image-names.ts';
import { LayerCache, type Lease } from './layer-cache.ts';
import { LayerFiles } from './layer-files.ts';
import { treeOf } from './layer-tree.ts';
import { hostPlatform, type Platform } from './manifest.ts';
import { makeEvictionPolicy, type EvictionPolicyName } from './policy/eviction-policy.ts';
import { readImage } from './oci-layout.ts';
import type { ImageRecord, LayerRecord } from './records.ts';
import { parseReference } from './reference.ts';
import { leaseImage, type ImageLease, type StoredImage, type StoredLayer } from './stored-image.ts';
import { defaultUnpackLimits, unpackLayer } from './unpack.ts';
import type { UnpackLimits, UnpackedLayer } from './unpack.ts';

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
  readonly #images: ImageNames;
  /** Layers being unpacked, by chain id and blob: a second import waits for the first. */
  readonly #flights = new Map<string, Promise<StoredLayer>>();
  readonly #cleanups = new Set<Promise<void>>();
  readonly #onCleanupError: (error: unknown) => void;

  private constructor(options: LayerStoreOptions) {
    this.#files = new LayerFiles(options.root);
    this.#images = new ImageNames(this.#files);
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
    store.#images.restore(images);
    store.#cache.evictExcess();
    return store;
  }

  /** The parent directory of all layers. */
  get layersDirectory(): string {
    return this.#files.layersDirectory;
  }

  /** Where the list of what was unpacked is. */
  treePathOf(layer: StoredLayer): string {
    return this.#files.treePathOf(layer.directoryName);
  }

  /** For blobs on their way; emptied when the store is opened. */
  get downloadsDirectory(): string {
    return this.#files.downloadsDirectory;
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
    const blobs = { take: ({ digest }: Blob) => fileOf(options.directory, digest) };
    return this.importImage({
      reference: options.reference ?? image.reference ?? image.digest,
      image,
      blobs,
      origin: { directory: options.directory },
    });
  }

  /** As `importAndAcquireImage`, without keeping it. */
  async importImage(options: ImageImport): Promise<StoredImage> {
    using lease = await this.importAndAcquireImage(options);
    return lease.image;
  }

  /**
   * Imports an image whose documents are known. All blobs that are needed are asked for at once,
   * and unpacked from the bottom. Throws as `importLayout`, and what `blobs` fails with.
   */
  async importAndAcquireImage(options: ImageImport): Promise<ImageLease> {
    const { image, reference, blobs } = options;
    if (reference !== image.digest) parseReference(reference);
    const imports = layerImports(image);
    const origin = {
      ...options.origin,
      manifest: image.manifestBytes.toString('utf8'),
      configuration: image.configBytes.toString('utf8'),
    };
    const { digest, config } = image;
    const record = { reference, digest, chainIds: imports.map(({ id }) => id), config, origin };
    // Layers of one image must not push out each other.
    using leases = new DisposableStack();
    await using taken = new AsyncDisposableStack();
    const files = new Map<Digest, TakenBlob>();
    const take = (layer: IdentifiedLayer): TakenBlob => {
      const blob = taken.adopt(blobs.take(layer), (one) => one.release());
      files.set(layer.id, blob);
      return blob;
    };
    for (const layer of imports) {
      if (this.#cache.has(layer.id)) leases.use(this.#cache.acquire([layer.id]));
      else take(layer);
    }
    for (const layer of imports) {
      const { id } = layer;
      while (!this.#cache.has(id)) {
        const { path } = files.get(id) ?? take(layer);
        await this.importLayer({ ...layer, blob: await path });
      }
      leases.use(this.#cache.acquire([id]));
      await files.get(id)?.release();
    }
    await this.#images.add(record);
    channels.pullStep.publish('named');
    return leaseImage(this.#storedImage(record), leases.move());
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
      if (layer.blob instanceof Readable) layer.blob.destroy();
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
    return [...this.#images.all()].map((record) => this.#storedImage(record));
  }

  /**
   * Forgets an image and removes those of its layers that no other image has; what is pinned or
   * mounted stays until room is needed after its release. False when there is no such image.
   */
  async removeImage(reference: string): Promise<boolean> {
    const record = this.#images.get(reference);
    if (record === undefined) return false;
    await this.#images.forget(reference);
    const used = new Set([...this.#images.all()].flatMap((image) => image.chainIds));
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

  /** Imports a layer where it is missing, and leases it. Throws as `importLayer`. */
  async importAndAcquire(layer: LayerImport): Promise<Lease<StoredLayer>> {
    const id = chainId(layer.parentChainId, layer.diffId);
    await this.importLayer(layer);
    // Others' imports may have evicted it in this moment.
    if (!this.#cache.has(id)) await this.importLayer(layer);
    return this.#cache.acquire([id]);
  }

  /** Leases layers, all or none, until the lease is released. Throws `image.not_found`. */
  acquire(ids: readonly Digest[]): Lease<StoredLayer> {
    return this.#cache.acquire(ids);
  }

  /** Leases an image; undefined when it is not here. */
  acquireImage(reference: string): ImageLease | undefined {
    const image = this.image(reference);
    if (image === undefined) return undefined;
    return leaseImage(image, this.#cache.acquire(image.layers.map(({ chainId: id }) => id)));
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
    const parents = layersFrom(layer.parentChainId, (parent) => this.#cache.get(parent));
    // Their directories are read while unpacking.
    using _parents = this.#cache.acquire(parents.map((parent) => parent.chainId));
    const ingest = await this.#files.startIngest();
    try {
      const { unpackedBytes, fileDigests } = await this.#unpack(layer, ingest, parents);
      channels.pullStep.publish('unpacked');
      const { diffId, digest, parentChainId } = layer;
      const { pinned: _pinned, ...record } = await this.#files.publish(
        { directory: ingest, tree: treeOf(ingest, fileDigests) },
        { chainId: id, diffId, digest, parentChainId, sizeBytes: unpackedBytes, pinned: false },
      );
      return this.#admit(this.#storedLayer(record));
    } catch (error) {
      throw diskFull(error, `layer ${layer.digest}`) ?? error;
    } finally {
      await rm(ingest, { recursive: true, force: true });
    }
  }

  async #unpack(
    layer: LayerImport,
    directory: string,
    parents: StoredLayer[],
  ): Promise<UnpackedLayer> {
    const { blob } = layer;
    const roomBytes = Math.max(this.#cache.capacityBytes - this.#cache.heldBytes, 0);
    const unpackedBytesMax = Math.min(this.#limits.unpackedBytesMax, roomBytes);
    try {
      return await unpackLayer({
        source: { ...layer, blob: typeof blob === 'function' ? await blob() : blob },
        directory,
        lowers: parents.map((parent) => parent.path),
        limits: { ...this.#limits, unpackedBytesMax },
      });
    } catch (cause) {
      const limit = cause instanceof HatchError ? cause.details['limit'] : undefined;
      if (limit !== 'unpackedBytesMax' || unpackedBytesMax === this.#limits.unpackedBytesMax)
        throw cause;
      throw cacheFull(layer.digest, { roomBytes, ...this.usage }, cause);
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

  /** Of a layer that the cache no longer has. */
  #discard(layer: StoredLayer): void {
    // Unless the same layer is here under another name.
    if (!this.#cache.has(layer.chainId)) this.#forgetImagesWith(layer.chainId);
    this.#inBackground(this.#files.discard(layer.directoryName));
  }

  #forgetImagesWith(id: Digest): void {
    for (const image of this.#images.all()) {
      if (!image.chainIds.includes(id)) continue;
      this.#inBackground(this.#images.forget(image.reference));
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
    const { digest, reference, config, origin } = record;
    return { digest, reference, config, origin, layers };
  }
}
