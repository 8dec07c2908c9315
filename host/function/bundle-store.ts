/**
 * Where the compressed layers of functions are for all hosts: the object store of the NATS system
 * (`layer-objects.ts`), or a repository of a registry (`bundle-repository.ts`).
 *
 * A layer is stored whole or not at all, under its digest. What is put again counts as used at that
 * time, so that whoever collects leaves alone what somebody is about to refer to. A store that
 * cannot delete keeps what it has.
 */
import type { Readable } from 'node:stream';
import type { Digest } from '../image/digest.ts';

export interface BundleStore {
  /**
   * Stores a layer, or notes that one there is in use again; `open` is called as often as the bytes
   * are needed. Throws when they are not those of the digest, and what reading them fails with.
   */
  put(layer: { digest: Digest; sizeBytes: number }, open: () => Promise<Readable>): Promise<void>;

  /** The bytes, which the reader verifies. Throws `image.not_found`. */
  get(digest: Digest): Promise<Readable>;

  has(digest: Digest): Promise<boolean>;

  /** All layers but those of `except`, with the time each was last put. */
  list(options: { except: ReadonlySet<string> }): Promise<{ digest: Digest; usedAtMs: number }[]>;

  /** Whether it was there, not put since, and could be deleted; otherwise nothing happens. */
  delete(digest: Digest, options: { putUntilMs: number }): Promise<boolean>;
}
