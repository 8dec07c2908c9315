/** Where the blobs of images and functions can be had. */
import type { Readable } from 'node:stream';
import type { Digest } from './digest.ts';

/** A layout, a registry, or the object store. */
export interface BlobSource {
  /**
   * The bytes of a blob, which the reader verifies.
   * Rejects, or the stream fails, with `image.not_found`, `image.registry_*` and the like.
   */
  open(blob: { digest: Digest; sizeBytes: number }): Promise<Readable>;
}
