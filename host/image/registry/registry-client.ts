/**
 * Images in registries, by the OCI distribution specification: found by name and platform, blobs
 * read and written. Mirrors are asked first; what they send is verified like all else.
 */
import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { HatchError } from '../../base/errors.ts';
import type { BlobSource } from '../blob-source.ts';
import { digestOf, isDigest } from '../digest.ts';
import type { Digest } from '../digest.ts';
import { documentBytesMax, findImage } from '../image-documents.ts';
import type { ImageDocuments } from '../image-documents.ts';
import { documentTypes } from '../manifest.ts';
import type { Descriptor, Platform } from '../manifest.ts';
import { readBlob } from './blob-stream.ts';
import { credentialsFor } from './credentials.ts';
import { Endpoint } from './endpoint.ts';
import { pushImage } from './push.ts';
import { parseMirror } from './remote-name.ts';
import type { RemoteName } from './remote-name.ts';
import { Repository } from './repository.ts';
import { defaultRetryPolicy, retrying } from './retry.ts';
import type { RetryPolicy } from './retry.ts';
import { Transport, readBody } from './transport.ts';

export interface RegistrySettings {
  /** Docker's `config.json`; read when a registry asks who we are. */
  credentialsFile: string;
  /** By registry as in references: URLs to ask before it, in this order. */
  mirrors?: Record<string, string[]>;
  /** Registries (`host` or `host:port`) that are asked over plain HTTP. */
  insecure?: readonly string[];
  /** In PEM, in addition to those that Node.js trusts. */
  certificateAuthorities?: readonly string[];
  policy?: RetryPolicy;
  /** How long a registry may say nothing, or next to nothing. */
  stallMs?: number;
}

export interface AskOptions {
  /** Plain HTTP, for this request. */
  insecure?: boolean;
  signal?: AbortSignal | undefined;
}

export interface FoundImage extends ImageDocuments {
  /** What the name stands for: an index, where there is one, else the manifest. */
  namedDigest: Digest;
}

interface Blob {
  digest: Digest;
  sizeBytes: number;
}

const defaultStallMs = 30_000;
/** A mirror that is down shall not cost much time. */
const mirrorAttemptsMax = 2;

export class RegistryClient implements Disposable {
  readonly #settings: RegistrySettings;
  readonly #policy: RetryPolicy;
  readonly #stallMs: number;
  readonly #transport: Transport;
  /** They remember what a registry accepted as proof. */
  readonly #endpoints = new Map<string, Endpoint>();

  constructor(settings: RegistrySettings) {
    this.#settings = settings;
    this.#policy = settings.policy ?? defaultRetryPolicy;
    this.#stallMs = settings.stallMs ?? defaultStallMs;
    const { certificateAuthorities = [] } = settings;
    this.#transport = new Transport({ certificateAuthorities, stallMs: this.#stallMs });
  }

  [Symbol.dispose](): void {
    this.#transport[Symbol.dispose]();
  }

  /**
   * The image of a name for a platform. Throws `image.not_found`, `image.invalid`,
   * `image.registry_denied` or `image.registry_failed`.
   */
  async find(name: RemoteName, options: AskOptions & { platform: Platform }): Promise<FoundImage> {
    return this.#firstOf(name, options, async (endpoint, policy) => {
      const fetch = (entry: Fetched) =>
        this.#fetchDocument({ endpoint, policy, name, entry, signal: options.signal });
      const top = await fetch({ target: `manifests/${name.digest ?? name.tag}` });
      if (name.digest !== undefined && digestOf(top.bytes) !== name.digest)
        throw changed(name.reference, name.digest, digestOf(top.bytes));
      const { bytes, mediaType } = top;
      const entry: Descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
      const found = await findImage({
        entry,
        platform: options.platform,
        where: `"${name.reference}"`,
        read: async (wanted) => {
          if (wanted === entry) return bytes;
          const kind = documentTypes.includes(wanted.mediaType) ? 'manifests' : 'blobs';
          const { digest, size } = wanted;
          return (await fetch({ target: `${kind}/${digest}`, sizeBytes: size })).bytes;
        },
      });
      return { ...found, namedDigest: entry.digest };
    });
  }

  /** Writes a blob to a new file, verified; not flushed. Throws as `find`, or the disk's errors. */
  async download(
    name: RemoteName,
    blob: Blob,
    options: AskOptions & { file: string; onBytes?: (bytes: number) => void },
  ): Promise<void> {
    const { file, signal } = options;
    await this.#firstOf(name, options, async (endpoint, policy) => {
      let written = 0;
      const counted = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
        for await (const chunk of chunks) {
          written += chunk.length;
          options.onBytes?.(chunk.length);
          yield chunk;
        }
      };
      try {
        const blobs = this.#readBlob({ endpoint, policy, name, blob, signal });
        // Not by the stream's signal: it would hide what the stream failed with.
        await pipeline(blobs, counted, createWriteStream(file, { flags: 'w', mode: 0o600 }));
      } catch (error) {
        options.onBytes?.(-written);
        throw error;
      }
    });
  }

  /** A repository of the registry itself. */
  repository(name: RemoteName, options: AskOptions = {}): Repository {
    const endpoint = this.#endpoint({ ...name, isPlain: this.#isPlain(name, options) });
    return new Repository({ endpoint, policy: this.#policy, stallMs: this.#stallMs, name });
  }

  /** The blobs of a repository, from the registry itself. */
  blobs(name: RemoteName, options: AskOptions = {}): BlobSource {
    const endpoint = this.#endpoint({ ...name, isPlain: this.#isPlain(name, options) });
    const policy = this.#policy;
    return {
      open: async (blob) =>
        Readable.from(this.#readBlob({ endpoint, policy, name, blob, signal: options.signal }), {
          objectMode: false,
        }),
    };
  }

  /**
   * Writes an image to a registry under a name: the blobs it does not have, then the manifest.
   * Throws as `find`.
   */
  async push(
    name: RemoteName,
    image: Pick<ImageDocuments, 'manifest' | 'manifestBytes'>,
    options: AskOptions & {
      blobs: BlobSource;
      /** Where in the same registry the blobs may be, by repository. */
      alsoIn?: string | undefined;
      onBytes?: (bytes: number) => void;
    },
  ): Promise<{ digest: Digest; sentBytes: number }> {
    const endpoint = this.#endpoint({ ...name, isPlain: this.#isPlain(name, options) });
    return pushImage({ ...options, endpoint, name, image, policy: this.#policy });
  }

  async #firstOf<T>(
    name: RemoteName,
    options: AskOptions,
    work: (endpoint: Endpoint, policy: RetryPolicy) => Promise<T>,
  ): Promise<T> {
    for (const url of this.#settings.mirrors?.[name.registry] ?? []) {
      const { host, isPlain } = parseMirror(url);
      const mirror = this.#endpoint({ registry: host, host, isPlain });
      try {
        return await work(mirror, { ...this.#policy, attemptsMax: mirrorAttemptsMax });
      } catch (error) {
        options.signal?.throwIfAborted();
        // What is wrong with a mirror is no reason not to ask the registry.
        if (!(error instanceof HatchError)) throw error;
      }
    }
    const isPlain = this.#isPlain(name, options);
    return work(this.#endpoint({ ...name, isPlain }), this.#policy);
  }

  #isPlain({ registry, host }: RemoteName, { insecure = false }: AskOptions): boolean {
    const { insecure: allowed = [] } = this.#settings;
    return insecure || allowed.includes(registry) || allowed.includes(host);
  }

  #endpoint(place: { registry: string; host: string; isPlain: boolean }): Endpoint {
    const { registry, host, isPlain } = place;
    const key = `${isPlain ? 'http' : 'https'}://${host}`;
    const known = this.#endpoints.get(key);
    if (known !== undefined) return known;
    const endpoint = new Endpoint({
      transport: this.#transport,
      registry,
      host,
      isPlain,
      credentials: () => credentialsFor(registry, this.#settings.credentialsFile),
      stallMs: this.#stallMs,
    });
    this.#endpoints.set(key, endpoint);
    return endpoint;
  }

  #readBlob(options: {
    endpoint: Endpoint;
    policy: RetryPolicy;
    name: RemoteName;
    blob: Blob;
    signal: AbortSignal | undefined;
  }): AsyncGenerator<Buffer> {
    const { endpoint, policy, name, blob, signal } = options;
    const ask = (offset: number) =>
      endpoint.ask({
        method: 'GET',
        repository: name.repository,
        target: `blobs/${blob.digest}`,
        actions: 'pull',
        // Compressed once more by a proxy, its digest would be another.
        headers: {
          'accept-encoding': 'identity',
          ...(offset === 0 ? {} : { range: `bytes=${offset}-` }),
        },
        expected: [200, 206],
        what: `download ${blob.digest} of "${name.reference}"`,
        signal,
      });
    return readBlob({ blob, ask, policy, stallMs: this.#stallMs, signal });
  }

  async #fetchDocument(options: {
    endpoint: Endpoint;
    policy: RetryPolicy;
    name: RemoteName;
    entry: Fetched;
    signal: AbortSignal | undefined;
  }): Promise<{ bytes: Buffer; mediaType: string }> {
    const { endpoint, policy, name, entry, signal } = options;
    const what = `read "${name.reference}"`;
    return retrying({ what, policy, signal }, async () => {
      const answer = await endpoint.ask({
        method: 'GET',
        repository: name.repository,
        target: entry.target,
        actions: 'pull',
        headers: { accept: documentTypes.join(', '), 'accept-encoding': 'identity' },
        expected: [200],
        what,
        signal,
      });
      const bytesMax = entry.sizeBytes ?? documentBytesMax;
      const bytes = await readBody(answer, { bytesMax, stallMs: this.#stallMs });
      const { headers } = answer;
      const claimed = headers['docker-content-digest'];
      if (typeof claimed === 'string' && isDigest(claimed) && digestOf(bytes) !== claimed)
        throw changed(name.reference, claimed, digestOf(bytes));
      const mediaType = headers['content-type']?.split(';')[0]?.trim() ?? '';
      if (entry.sizeBytes === undefined && !documentTypes.includes(mediaType))
        throw new HatchError(
          'image.invalid',
          `Cannot use "${name.reference}": manifests of media type "${mediaType}" are not ` +
            'supported, push it again in the form of OCI or of Docker 1.10 and later',
        );
      return { bytes, mediaType };
    });
  }
}

interface Fetched {
  target: string;
  /** Where it is known. */
  sizeBytes?: number;
}

function changed(reference: string, expected: Digest, actual: Digest): HatchError {
  return new HatchError(
    'image.invalid',
    `Cannot use "${reference}": its digest must be ${expected}, but is ${actual}`,
    { details: { expected, actual } },
  );
}
