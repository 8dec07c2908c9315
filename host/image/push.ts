/** From the store, or a layout, to a registry: byte for byte what it was when it came. */
import { open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { BlobSource } from './blob-source.ts';
import { digestOf } from './digest.ts';
import type { Digest } from './digest.ts';
import type { ImageDocuments } from './image-documents.ts';
import type { LayerStore } from './layer-store.ts';
import { hostPlatform, parseManifest } from './manifest.ts';
import { blobPath, readImage } from './oci-layout.ts';
import type { ImageOrigin } from './records.ts';
import type { RegistryClient } from './registry/registry-client.ts';
import { parseRemoteName } from './registry/remote-name.ts';

interface Parts {
  store: Pick<LayerStore, 'image'>;
  client: RegistryClient;
}

export interface Pushed {
  reference: string;
  digest: Digest;
  /** What the registry did not have. */
  sentBytes: number;
}

/**
 * Pushes an image of this host. Layers are kept unpacked only: a registry that lacks one gets it
 * from where the image came from. Throws `image.*`.
 */
export async function pushStored(
  { store, client }: Parts,
  options: { source: string; target: string; insecure?: boolean },
): Promise<Pushed> {
  const { source, target, insecure = false } = options;
  const image = store.image(source) ?? store.image(parseRemoteName(source).reference);
  if (image === undefined)
    throw new HatchError(
      'image.not_found',
      `Cannot push "${source}": "hatch image ls" shows what there is`,
    );
  if (image.origin === undefined)
    throw new HatchError(
      'image.not_found',
      `Cannot push "${source}": it is not known where it came from, import or pull it again`,
    );
  const { origin } = image;
  const manifestBytes = Buffer.from(origin.manifest);
  const name = parseRemoteName(target);
  const from = origin.remote === undefined ? undefined : parseRemoteName(origin.remote.reference);
  const pushed = await client.push(
    name,
    { manifest: parseManifest(manifestBytes), manifestBytes },
    {
      blobs: withConfiguration(origin, sourceOf(client, origin)),
      alsoIn: from?.registry === name.registry ? from.repository : undefined,
      insecure,
    },
  );
  return { reference: name.reference, ...pushed };
}

/** Pushes an image of a layout. Throws `image.*`. */
export async function pushLayout(
  client: RegistryClient,
  options: { directory: string; name?: string; target: string; insecure?: boolean },
): Promise<Pushed> {
  const { directory, target, insecure = false } = options;
  const image: ImageDocuments = await readImage(directory, {
    platform: hostPlatform(),
    ...(options.name === undefined ? {} : { reference: options.name }),
  });
  const name = parseRemoteName(target);
  const pushed = await client.push(name, image, { blobs: layoutBlobs(directory), insecure });
  return { reference: name.reference, ...pushed };
}

function sourceOf(client: RegistryClient, { directory, remote }: ImageOrigin): BlobSource {
  if (remote !== undefined) {
    const { insecure } = remote;
    return client.blobs(parseRemoteName(remote.reference), { insecure });
  }
  return layoutBlobs(directory ?? '');
}

function withConfiguration({ configuration }: ImageOrigin, rest: BlobSource): BlobSource {
  const bytes = Buffer.from(configuration);
  const digest = digestOf(bytes);
  return {
    open: async (blob) => (blob.digest === digest ? Readable.from([bytes]) : rest.open(blob)),
  };
}

/** The blobs of a layout, for a push. */
export function layoutBlobs(directory: string): BlobSource {
  return {
    open: async ({ digest }) => {
      const path = blobPath(directory, digest);
      try {
        // Opened first: a file that is missing is named before anything is sent.
        const file = await open(path);
        return file.createReadStream({ highWaterMark: 256 * 1024 });
      } catch (cause) {
        if (!isErrno(cause, 'ENOENT', 'ENOTDIR')) throw cause;
        throw new HatchError(
          'image.not_found',
          `Cannot push ${digest}: it is no longer in "${directory}"; import the image again`,
          { cause },
        );
      }
    },
  };
}
