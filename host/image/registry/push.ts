/** Writing an image to a registry: what it has is not sent again, the manifest goes last. */
import { Readable } from 'node:stream';
import { HatchError } from '../../base/errors.ts';
import type { BlobSource } from '../blob-source.ts';
import { digestOf } from '../digest.ts';
import type { Digest } from '../digest.ts';
import type { ImageDocuments } from '../image-documents.ts';
import { mediaType } from '../manifest.ts';
import type { Descriptor } from '../manifest.ts';
import type { Endpoint, RepositoryRequest } from './endpoint.ts';
import type { RemoteName } from './remote-name.ts';
import { retrying } from './retry.ts';
import type { RetryPolicy } from './retry.ts';
import { discard } from './transport.ts';
import type { HttpAnswer } from './transport.ts';

interface PushOptions {
  endpoint: Endpoint;
  policy: RetryPolicy;
  name: RemoteName;
  image: Pick<ImageDocuments, 'manifest' | 'manifestBytes'>;
  blobs: BlobSource;
  /** Another repository of the same registry that may have the blobs. */
  alsoIn?: string | undefined;
  onBytes?: (bytes: number) => void;
  signal?: AbortSignal | undefined;
}

const uploadsMax = 3;

export async function pushImage(
  options: PushOptions,
): Promise<{ digest: Digest; sentBytes: number }> {
  const { image, name, policy, signal } = options;
  const { config, layers } = image.manifest;
  const byDigest = new Map([config, ...layers].map((entry) => [entry.digest, entry]));
  const waiting = [...byDigest.values()];
  let sentBytes = 0;
  const sendWaiting = async (): Promise<void> => {
    for (let entry = waiting.shift(); entry !== undefined; entry = waiting.shift()) {
      const blob = entry;
      const what = `push ${blob.digest} to "${name.reference}"`;
      sentBytes += await retrying({ what, policy, signal }, () => pushBlob(options, blob, what));
    }
  };
  try {
    await Promise.all(Array.from({ length: uploadsMax }, sendWaiting));
  } finally {
    waiting.length = 0;
  }
  const digest = digestOf(image.manifestBytes);
  const what = `push the manifest of "${name.reference}"`;
  await retrying({ what, policy, signal }, async () => {
    const answer = await ask(options, {
      method: 'PUT',
      target: `manifests/${name.digest ?? name.tag}`,
      headers: { 'content-type': image.manifest.mediaType ?? mediaType.manifest },
      body: image.manifestBytes,
      // No digest was given: docker-registry means a link that another push is just writing.
      passingCodes: name.digest === undefined ? ['DIGEST_INVALID'] : [],
      expected: [201],
      what,
    });
    discard(answer);
    const stored = answer.headers['docker-content-digest'];
    if (stored === undefined || stored === digest) return;
    throw new HatchError(
      'image.registry_failed',
      `Cannot push "${name.reference}": the registry stored ${String(stored)}, not ${digest}`,
    );
  });
  return { digest, sentBytes };
}

/** Returns how many bytes had to be sent. */
async function pushBlob(options: PushOptions, entry: Descriptor, what: string): Promise<number> {
  const { digest, size } = entry;
  const present = await ask(options, {
    method: 'HEAD',
    target: `blobs/${digest}`,
    expected: [200, 404],
    what,
  });
  discard(present);
  if (present.status === 200) return 0;
  const upload = await startUpload(options, digest, what);
  if (upload === undefined) return 0;
  const source = await options.blobs.open({ digest, sizeBytes: size });
  let sent = 0;
  const counted = async function* (): AsyncGenerator<Buffer> {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      sent += chunk.length;
      options.onBytes?.(chunk.length);
      yield chunk;
    }
  };
  const stream = Readable.from(counted(), { objectMode: false });
  try {
    const done = await ask(options, {
      method: 'PUT',
      target: upload,
      headers: { 'content-type': 'application/octet-stream' },
      body: { stream, sizeBytes: size },
      expected: [201],
      what,
    });
    discard(done);
    return size;
  } catch (error) {
    options.onBytes?.(-sent);
    // What the source failed with says more than the connection that broke with it.
    throw stream.errored instanceof HatchError ? stream.errored : error;
  } finally {
    stream.destroy();
    source.destroy();
  }
}

/** Where to send a blob to; undefined when the registry could take it from a repository of its. */
async function startUpload(
  options: PushOptions,
  digest: Digest,
  what: string,
): Promise<URL | undefined> {
  const { alsoIn } = options;
  const mount = alsoIn === undefined ? '' : `?mount=${digest}&from=${encodeURIComponent(alsoIn)}`;
  const answer = await ask(options, {
    method: 'POST',
    target: `blobs/uploads/${mount}`,
    alsoPullFrom: alsoIn,
    body: Buffer.alloc(0),
    expected: [201, 202],
    what,
  });
  discard(answer);
  if (answer.status === 201) return undefined;
  const place = URL.parse(answer.headers.location ?? '', answer.url.href);
  if (place === null)
    throw new HatchError(
      'image.registry_failed',
      `Cannot ${what}: registry "${options.endpoint.host}" does not say where to send it`,
    );
  place.searchParams.set('digest', digest);
  return place;
}

function ask(
  { endpoint, name, signal }: PushOptions,
  request: Omit<RepositoryRequest, 'repository' | 'actions' | 'signal'>,
): Promise<HttpAnswer> {
  const { repository } = name;
  return endpoint.ask({ ...request, repository, actions: 'pull,push', signal });
}
