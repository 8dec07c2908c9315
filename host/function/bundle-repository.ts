/**
 * Layers of functions in a repository of a registry: each as an artifact of one layer, with a tag
 * made of its digest, so that nothing else has to be written down and the registry's own garbage
 * collection leaves it alone. The time of its last use is an annotation.
 */
import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { HatchError } from '../base/errors.ts';
import { digestOf, hexOf, isDigest } from '../image/digest.ts';
import type { Digest } from '../image/digest.ts';
import { mediaType, parseManifest } from '../image/manifest.ts';
import type { ImageManifest } from '../image/manifest.ts';
import type { RegistryClient } from '../image/registry/registry-client.ts';
import { parseRemoteName } from '../image/registry/remote-name.ts';
import type { Repository } from '../image/registry/repository.ts';
import type { BundleStore } from './bundle-store.ts';

const usedAtAnnotation = 'dev.hatchery.used-at-ms';
const putAnnotation = 'dev.hatchery.put';
const layerType = 'application/vnd.oci.image.layer.v1.tar+gzip';
/** A layer alone has no configuration; what stands for none is the same for all. */
const noConfiguration = Buffer.from('{}');
const tagPattern = /^sha256-([0-9a-f]{64})$/;

export class BundleRepository implements BundleStore {
  readonly #client: Pick<RegistryClient, 'push' | 'repository' | 'blobs'>;
  /** As `registry.example/team/bundles`. */
  readonly #name: string;
  readonly #repository: Repository;

  /** Throws `image.invalid` when that is no name. */
  constructor(client: Pick<RegistryClient, 'push' | 'repository' | 'blobs'>, name: string) {
    this.#client = client;
    this.#name = name;
    this.#repository = client.repository(parseRemoteName(name));
  }

  async put(
    layer: { digest: Digest; sizeBytes: number },
    open: () => Promise<Readable>,
  ): Promise<void> {
    const before = await this.#repository.manifest(tagOf(layer.digest));
    const manifestBytes = manifestOf(layer);
    const { digest } = await this.#client.push(
      parseRemoteName(`${this.#name}:${tagOf(layer.digest)}`),
      { manifest: parseManifest(manifestBytes), manifestBytes },
      {
        blobs: {
          open: async (blob) =>
            blob.digest === layer.digest ? open() : Readable.from([noConfiguration]),
        },
      },
    );
    // Or it would keep the layer from the registry's garbage collection for good.
    if (before !== undefined && before.digest !== digest)
      await this.#repository.deleteManifest(before.digest);
  }

  async get(digest: Digest): Promise<Readable> {
    const layer = (await this.#find(digest))?.layers.find((one) => one.digest === digest);
    if (layer === undefined)
      throw new HatchError(
        'image.not_found',
        `Cannot find layer "${digest}" in "${this.#name}": deploy it again`,
      );
    const blobs = this.#client.blobs(parseRemoteName(this.#name));
    return blobs.open({ digest, sizeBytes: layer.size });
  }

  async has(digest: Digest): Promise<boolean> {
    return (await this.#find(digest)) !== undefined;
  }

  async list({
    except,
  }: {
    except: ReadonlySet<string>;
  }): Promise<{ digest: Digest; usedAtMs: number }[]> {
    const listed = [];
    for (const tag of await this.#repository.tags()) {
      const digest = digestIn(tag);
      if (digest === undefined || except.has(digest)) continue;
      const manifest = await this.#find(digest);
      if (manifest === undefined) continue;
      listed.push({ digest, usedAtMs: usedAtMs(manifest) });
    }
    return listed;
  }

  async delete(digest: Digest, { putUntilMs }: { putUntilMs: number }): Promise<boolean> {
    const found = await this.#repository.manifest(tagOf(digest));
    if (found === undefined || usedAtMs(parseManifest(found.bytes)) > putUntilMs) return false;
    return this.#repository.deleteManifest(found.digest);
  }

  async #find(digest: Digest): Promise<ImageManifest | undefined> {
    const found = await this.#repository.manifest(tagOf(digest));
    return found === undefined ? undefined : parseManifest(found.bytes);
  }
}

function tagOf(digest: Digest): string {
  return `sha256-${hexOf(digest)}`;
}

/** Undefined for what others keep in the repository. */
function digestIn(tag: string): Digest | undefined {
  const digest = `sha256:${tagPattern.exec(tag)?.[1] ?? ''}`;
  return isDigest(digest) ? digest : undefined;
}

function usedAtMs({ annotations }: ImageManifest): number {
  return Number(annotations?.[usedAtAnnotation] ?? 0);
}

/** Another each time: to take away what was put earlier never takes away what is put meanwhile. */
function manifestOf({ digest, sizeBytes }: { digest: Digest; sizeBytes: number }): Buffer {
  const config = {
    mediaType: 'application/vnd.oci.empty.v1+json',
    digest: digestOf(noConfiguration),
    size: noConfiguration.length,
  };
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaType.manifest,
      artifactType: 'application/vnd.hatchery.bundle.v1',
      config,
      layers: [{ mediaType: layerType, digest, size: sizeBytes }],
      annotations: { [usedAtAnnotation]: String(Date.now()), [putAnnotation]: randomUUID() },
    }),
  );
}
