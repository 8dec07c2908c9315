/** What is stored: layers, and the images that are made of them. */
import type { Digest } from './digest.ts';
import type { ImageConfig } from './manifest.ts';
import type { ImageOrigin } from './records.ts';

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
  /** What a push needs; images that were stored by an older version have none. */
  origin: ImageOrigin | undefined;
  /** Bottom first. */
  layers: StoredLayer[];
}

/** An image whose layers stay until it is released. */
export interface ImageLease extends Disposable {
  readonly image: StoredImage;
  release(): void;
}

/** `held` is what keeps its layers. */
export function leaseImage(image: StoredImage, held: Disposable): ImageLease {
  const release = (): void => held[Symbol.dispose]();
  return { image, release, [Symbol.dispose]: release };
}
