/** The object store `hatch_layers`, to which also goes what is deployed, wherever it is kept. */
import { Readable } from 'node:stream';
import type { ReadableStream as NodeReadableStream } from 'node:stream/web';
import type { NatsConnection } from '@nats-io/nats-core';
import { Objm } from '@nats-io/obj';
import type { ObjectInfo, ObjectStore } from '@nats-io/obj';
import { HatchError, messageOf } from '../base/errors.ts';
import { DigestMeter, isDigest } from '../image/digest.ts';
import type { Digest } from '../image/digest.ts';
import type { BundleStore } from './bundle-store.ts';
import { natsRefusal } from './nats-refusal.ts';

const storeName = 'hatch_layers';
const chunkBytes = 512 * 1024;
export const layerBytesMax = 512 * 1024 * 1024;

export class LayerObjects implements BundleStore {
  readonly #store: ObjectStore;

  private constructor(store: ObjectStore) {
    this.#store = store;
  }

  static async open(connection: NatsConnection): Promise<LayerObjects> {
    try {
      return new LayerObjects(await new Objm(connection).create(storeName));
    } catch (error) {
      throw unavailable('open the layer store', error);
    }
  }

  /** Throws `deploy.invalid` when the bytes are not those of the digest. */
  async put({ digest }: { digest: Digest }, open: () => Promise<Readable>): Promise<void> {
    if (await this.has(digest)) {
      // A new time of use keeps it from being collected until its version is published.
      await this.#store.update(digest, { name: digest, metadata: usedNow() });
      return;
    }
    const meter = new DigestMeter({ bytesMax: layerBytesMax, tooLarge });
    const stream = await open();
    stream.once('error', (error) => meter.destroy(error));
    const meta = {
      name: digest,
      options: { max_chunk_size: chunkBytes },
      metadata: usedNow(),
    };
    try {
      await this.#store.put(meta, webStream(stream.pipe(meter)));
    } catch (error) {
      if (error instanceof HatchError) throw error;
      throw unavailable(`store layer "${digest}"`, error);
    }
    const found = meter.digest();
    if (found === digest) return;
    await this.#store.delete(digest);
    throw new HatchError(
      'deploy.invalid',
      `Cannot store layer "${digest}": its bytes have digest "${found}"; send it again`,
    );
  }

  async get(digest: Digest): Promise<Readable> {
    const result = await this.#store.get(digest).catch((error: unknown) => {
      throw unavailable(`read layer "${digest}"`, error);
    });
    if (result === null) {
      throw new HatchError('image.not_found', `Cannot find layer "${digest}": deploy it again`);
    }
    // The same failure also comes through the stream, where the reader sees it.
    result.error.catch(() => undefined);
    return Readable.fromWeb(result.data as NodeReadableStream<Uint8Array>);
  }

  async has(digest: Digest): Promise<boolean> {
    const info = await this.#store.info(digest).catch((error: unknown) => {
      throw unavailable(`look for layer "${digest}"`, error);
    });
    return info !== null && !info.deleted;
  }

  async list({
    except,
  }: {
    except: ReadonlySet<string>;
  }): Promise<{ digest: Digest; usedAtMs: number }[]> {
    // A layer put twice is listed twice; the later entry counts.
    const byDigest = new Map<Digest, number>();
    for (const info of await this.#store.list()) {
      const { name } = info;
      if (isDigest(name) && !except.has(name)) byDigest.set(name, usedAtMs(info));
    }
    return [...byDigest].map(([digest, usedAtMs]) => ({ digest, usedAtMs }));
  }

  async delete(digest: Digest, { putUntilMs }: { putUntilMs: number }): Promise<boolean> {
    const info = await this.#store.info(digest);
    if (info === null || info.deleted || usedAtMs(info) > putUntilMs) return false;
    await this.#store.delete(digest);
    return true;
  }
}

function usedNow(): Record<string, string> {
  return { usedAtMs: String(Date.now()) };
}

function usedAtMs({ metadata, mtime }: ObjectInfo): number {
  const noted = Number(metadata?.['usedAtMs']);
  return Number.isFinite(noted) ? noted : Date.parse(mtime);
}

/** The client is typed with the browser's streams; Node's are the same at run time. */
function webStream(stream: Readable): ReadableStream<Uint8Array> {
  return Readable.toWeb(stream) as ReadableStream<Uint8Array>;
}

function tooLarge(): HatchError {
  return new HatchError(
    'deploy.invalid',
    `Cannot store a layer of more than ${layerBytesMax} bytes: ship fewer or smaller files`,
  );
}

function unavailable(what: string, error: unknown): HatchError {
  const reason = messageOf(error);
  const advice = /no space left/.test(reason) ? '; free some of the disk of the NATS server' : '';
  const message = `Cannot ${what}: ${reason}${advice}`;
  return natsRefusal(error) ?? new HatchError('host.nats_unavailable', message, { cause: error });
}
