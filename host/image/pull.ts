/** From the name of an image in a registry to its layers in the store. */
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { channels } from '../base/channels.ts';
import { HatchError } from '../base/errors.ts';
import type { BurstImage } from './burst-pins.ts';
import { Downloads } from './downloads.ts';
import type { Blob, BlobFiles, TakenBlob } from './downloads.ts';
import { documentsOf } from './image-documents.ts';
import type { ImageDocuments } from './image-documents.ts';
import { layerImports } from './image-import.ts';
import type { LayerStore } from './layer-store.ts';
import { hostPlatform } from './manifest.ts';
import type { Platform } from './manifest.ts';
import type { RegistryClient } from './registry/registry-client.ts';
import { formatReference, parseReference } from './reference.ts';
import { parseRemoteName } from './registry/remote-name.ts';
import type { RemoteName } from './registry/remote-name.ts';
import type { ImageLease, StoredImage } from './stored-image.ts';

export interface PullOptions {
  platform?: Platform;
  /** Plain HTTP, for this image. */
  insecure?: boolean;
}

/** How far a pull is. */
export interface PullProgress {
  reference: string;
  /** Of those layers that were not here: compressed. */
  downloadedBytes: number;
  totalBytes: number;
}

export interface PullerOptions {
  store: LayerStore;
  client: RegistryClient;
  /** Downloads at the same time, of all pulls together. */
  downloadsMax: number;
  /** Of one layer, compressed. */
  layerBytesMax: number;
}

export class ImagePuller {
  readonly #options: PullerOptions;
  readonly #downloads: Downloads;
  readonly #underWay = new Map<PullProgress, Promise<ImageLease>>();
  readonly #closing = new AbortController();

  constructor(options: PullerOptions) {
    this.#options = options;
    const { downloadsDirectory: directory } = options.store;
    this.#downloads = new Downloads({ directory, atOnceMax: options.downloadsMax });
  }

  /**
   * Makes what a name stands for now the image of that name here. Layers that are here already are
   * not read again; a layer that several pulls want is downloaded and unpacked once. Throws
   * `image.*`, with nothing changed.
   */
  async pull(reference: string, options: PullOptions = {}): Promise<StoredImage> {
    using lease = await this.#pull(reference, options);
    return lease.image;
  }

  /**
   * The name with the digest that it stands for now, which it will stand for on all hosts. Throws
   * `image.*` when there is no such image, or none for this platform.
   */
  async resolve(reference: string): Promise<string> {
    const { store, client } = this.#options;
    const name = parseRemoteName(reference);
    if (name.digest !== undefined && store.image(name.reference) !== undefined)
      return name.reference;
    const { signal } = this.#closing;
    const { namedDigest } = await client.find(name, { platform: hostPlatform(), signal });
    return formatReference({ ...parseReference(name.reference), digest: namedDigest });
  }

  /**
   * The image of a name that `resolve` gave, kept until it is released: from the store where it is
   * there already, whatever has become of the registry. Throws as `pull`.
   */
  async acquire(reference: string): Promise<ImageLease> {
    return this.#options.store.acquireImage(reference) ?? this.#pull(reference, {});
  }

  /**
   * Of a name that `resolve` gave, where its layers are; from the store where it is there, whatever
   * has become of the registry. Throws `image.*`.
   */
  async find(reference: string): Promise<BurstImage> {
    const { store, client } = this.#options;
    const { signal } = this.#closing;
    const name = parseRemoteName(reference);
    const image =
      documentsOf(store.image(name.reference)?.origin) ??
      (await client.find(name, { platform: hostPlatform(), signal }));
    this.#refuseTooLarge(name, image);
    const layers = layerImports(image).map(({ id: _id, ...layer }) => ({
      ...layer,
      open: () => this.#open(name, layer),
    }));
    const take = (blob: Blob) => this.#take(name, blob, {});
    const keep = async (): Promise<void> => (await this.#import(name, image, { take })).release();
    return { layers, keep };
  }

  async #pull(reference: string, options: PullOptions): Promise<ImageLease> {
    const { client } = this.#options;
    const { insecure = false, platform = hostPlatform() } = options;
    const { signal } = this.#closing;
    const name = parseRemoteName(reference);
    const image = await client.find(name, { platform, insecure, signal });
    this.#refuseTooLarge(name, image);
    channels.pullStep.publish('resolved');
    const progress = { reference: name.reference, downloadedBytes: 0, totalBytes: 0 };
    const onBytes = (bytes: number): void => {
      progress.downloadedBytes += bytes;
    };
    const take = (blob: Blob) => {
      progress.totalBytes += blob.sizeBytes;
      return this.#take(name, blob, { insecure, onBytes });
    };
    const stored = this.#import(name, image, { insecure, take });
    this.#underWay.set(progress, stored);
    try {
      return await stored;
    } finally {
      this.#underWay.delete(progress);
    }
  }

  #refuseTooLarge({ reference }: RemoteName, { manifest }: ImageDocuments): void {
    const { layerBytesMax } = this.#options;
    const tooLarge = manifest.layers.find(({ size }) => size > layerBytesMax);
    if (tooLarge === undefined) return;
    throw new HatchError(
      'image.invalid',
      `Cannot pull "${reference}": layer ${tooLarge.digest} has ${tooLarge.size} bytes, ` +
        `and more than ${layerBytesMax} are not allowed`,
    );
  }

  #import(
    name: RemoteName,
    image: ImageDocuments,
    { take, insecure = false }: { take: BlobFiles['take']; insecure?: boolean },
  ): Promise<ImageLease> {
    const { reference } = name;
    const origin = { remote: { reference, insecure } };
    return this.#options.store.importAndAcquireImage({ reference, image, blobs: { take }, origin });
  }

  #take(
    name: RemoteName,
    blob: Blob,
    options: { insecure?: boolean; onBytes?: (bytes: number) => void },
  ): TakenBlob {
    return this.#downloads.take(blob, async ({ file, signal }) => {
      const either = AbortSignal.any([signal, this.#closing.signal]);
      await this.#options.client.download(name, blob, { ...options, file, signal: either });
    });
  }

  async #open(name: RemoteName, blob: Blob): Promise<Readable> {
    const taken = this.#take(name, blob, {});
    try {
      const stream = createReadStream(await taken.path);
      stream.once('close', () => void taken.release());
      return stream;
    } catch (error) {
      await taken.release();
      throw error;
    }
  }

  /** Breaks off what is under way. */
  async close(): Promise<void> {
    this.#closing.abort(new HatchError('host.draining', 'Cannot pull: the host is stopping'));
    await Promise.allSettled(this.#underWay.values());
  }

  /** Pulls that have not ended. */
  progress(): PullProgress[] {
    return [...this.#underWay.keys()].map((pull) => ({ ...pull }));
  }
}
