/** What is asked of the layer store when images and layers come in. */
import type { Readable } from 'node:stream';
import { HatchError } from '../base/errors.ts';
import { chainIds } from './digest.ts';
import type { Digest } from './digest.ts';
import type { BlobFiles, TakenBlob } from './downloads.ts';
import type { ImageDocuments } from './image-documents.ts';
import { blobPath } from './oci-layout.ts';
import type { ImageOrigin } from './records.ts';

export interface LayerImport {
  /**
   * A path or a stream: tar, plain or compressed by gzip or zstd. As a function it is asked only
   * when the layer is not here.
   */
  blob: string | Readable | (() => Promise<Readable>);
  /** Of the blob as it is. */
  digest: Digest;
  sizeBytes: number;
  diffId: Digest;
  /** The layer below, which must be stored; without it the layer is a bottom one. */
  parentChainId?: Digest | undefined;
}

export interface ImageImport {
  /** What the image is called here. */
  reference: string;
  image: ImageDocuments;
  blobs: BlobFiles;
  /** Where the blobs are, for a push. */
  origin: Pick<ImageOrigin, 'directory' | 'remote'>;
}

/** With its chain id. */
export type IdentifiedLayer = Omit<LayerImport, 'blob'> & { id: Digest };

/** Bottom first. */
export function layerImports({ config, manifest }: ImageDocuments): IdentifiedLayer[] {
  const ids = chainIds(config.diffIds);
  return manifest.layers.flatMap(({ digest, size }, index) => {
    const diffId = config.diffIds[index];
    const id = ids[index];
    if (diffId === undefined || id === undefined) return [];
    return [{ id, digest, sizeBytes: size, diffId, parentChainId: ids[index - 1] }];
  });
}

/** A blob of a layout stays where it is. */
export function fileOf(directory: string, digest: Digest): TakenBlob {
  return { path: Promise.resolve(blobPath(directory, digest)), release: async () => {} };
}

/** A layer and all below it that are here, uppermost first. Throws `image.not_found`. */
export function layersFrom<L extends { parentChainId: Digest | undefined }>(
  top: Digest | undefined,
  get: (id: Digest) => L | undefined,
): L[] {
  const stack: L[] = [];
  for (let id = top; id !== undefined; id = stack.at(-1)?.parentChainId) {
    const layer = get(id);
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
