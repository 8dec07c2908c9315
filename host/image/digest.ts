/** Digests as the OCI image specification writes them: `sha256:` and 64 hexadecimal digits. */
import { createHash } from 'node:crypto';
import { Transform } from 'node:stream';
import type { TransformCallback } from 'node:stream';
import { HatchError } from '../base/errors.ts';

export type Digest = `sha256:${string}`;

const pattern = /^sha256:[0-9a-f]{64}$/;

export function isDigest(text: string): text is Digest {
  return pattern.test(text);
}

/** Checks a digest that came from outside; throws `image.invalid`. */
export function parseDigest(text: string): Digest {
  if (isDigest(text)) return text;
  throw new HatchError(
    'image.invalid',
    `Cannot use digest "${text.slice(0, 100)}": it must be "sha256:" and 64 hexadecimal digits`,
  );
}

export function digestOf(bytes: Uint8Array | string): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** The 64 hexadecimal digits. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

/** The name of a layer on top of everything below it: equal chain ids mean equal file trees. */
export function chainId(parent: Digest | undefined, diffId: Digest): Digest {
  return parent === undefined ? diffId : digestOf(`${parent} ${diffId}`);
}

/** The chain ids of a whole stack, bottom first. */
export function chainIds(diffIds: readonly Digest[]): Digest[] {
  const ids: Digest[] = [];
  for (const diffId of diffIds) ids.push(chainId(ids.at(-1), diffId));
  return ids;
}

/**
 * Passes bytes on while it counts and digests them. Fails with `tooLarge()` as soon as more than
 * `bytesMax` have come, so that a source without an end is cut off early.
 */
export class DigestMeter extends Transform {
  #hash = createHash('sha256');
  #bytes = 0;
  readonly #bytesMax: number;
  readonly #tooLarge: () => Error;

  constructor(options: { bytesMax: number; tooLarge: () => Error }) {
    super();
    this.#bytesMax = options.bytesMax;
    this.#tooLarge = options.tooLarge;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** The digest of all that has passed; ask once, at the end. */
  digest(): Digest {
    return `sha256:${this.#hash.digest('hex')}`;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#bytesMax) {
      done(this.#tooLarge());
      return;
    }
    this.#hash.update(chunk);
    done(null, chunk);
  }
}
