/**
 * The layer store's directories and records on disk.
 *
 * ```
 * <root>/layers/<name>/   one unpacked layer each; the parent of all is what gets idmapped
 * <root>/records/         what each of them is: a layer without a record is garbage
 * <root>/images/          names of images and the layers they consist of
 * <root>/usage/           the order of use, written when the store is closed
 * <root>/trees/<name>     what is in each layer, to verify it again
 * <root>/start-reads/     what starts read of layers (`start-reads.ts`)
 * <root>/downloads/ ingest/ trash/   coming and going; emptied when the store is opened
 * ```
 * A layer is unpacked in `ingest`, flushed, renamed into `layers`, and exists once its record does.
 */
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { channels } from '../base/channels.ts';
import { digestOf, hexOf } from './digest.ts';
import type { Digest } from './digest.ts';
import {
  RecordDirectory,
  flushDirectory,
  imageRecordSchema,
  layerRecordSchema,
  orderRecordSchema,
  writeFlushed,
} from './records.ts';
import type { ImageRecord, LayerRecord } from './records.ts';

const orderName = 'order';

export class LayerFiles {
  readonly layersDirectory: string;
  readonly #root: string;
  readonly #layers: RecordDirectory<LayerRecord>;
  readonly #images: RecordDirectory<ImageRecord>;
  readonly #order: RecordDirectory<Digest[]>;
  #lastName = 0;
  #lastIngest = 0;

  constructor(root: string) {
    this.#root = root;
    this.layersDirectory = join(root, 'layers');
    this.#layers = new RecordDirectory(join(root, 'records'), layerRecordSchema);
    this.#images = new RecordDirectory(join(root, 'images'), imageRecordSchema);
    this.#order = new RecordDirectory(join(root, 'usage'), orderRecordSchema);
  }

  /** Clears what a crash left, and returns the rest: layers from least to most recently used. */
  async load(): Promise<{ layers: LayerRecord[]; images: ImageRecord[] }> {
    for (const name of ['downloads', 'ingest', 'trash']) {
      await rm(join(this.#root, name), { recursive: true, force: true });
      await mkdir(join(this.#root, name), { recursive: true, mode: 0o700 });
    }
    // Setuid files of images must be out of reach of this host's users.
    await mkdir(this.layersDirectory, { recursive: true, mode: 0o700 });
    await mkdir(join(this.#root, 'trees'), { recursive: true, mode: 0o700 });
    const layers = await this.#loadLayers();
    const known = new Set(layers.map(({ chainId }) => chainId));
    const images: ImageRecord[] = [];
    for (const image of (await this.#images.load()).values()) {
      if (image.chainIds.every((id) => known.has(id))) images.push(image);
      else await this.removeImage(image.reference);
    }
    return { layers, images };
  }

  /** For blobs on their way. */
  get downloadsDirectory(): string {
    return join(this.#root, 'downloads');
  }

  /** Where the list of a layer's entries is. */
  treePathOf(directoryName: string): string {
    return join(this.#root, 'trees', directoryName);
  }

  pathOf(directoryName: string): string {
    return join(this.layersDirectory, directoryName);
  }

  /** A new empty directory to unpack into; remove it when it was not published. */
  async startIngest(): Promise<string> {
    const path = join(this.#root, 'ingest', String(++this.#lastIngest));
    await mkdir(path, { mode: 0o755 });
    return path;
  }

  /** Makes an unpacked, flushed directory a layer. */
  async publish(
    ingest: { directory: string; tree: AsyncIterable<string> },
    layer: Omit<LayerRecord, 'directoryName'>,
  ): Promise<LayerRecord> {
    const directoryName = (++this.#lastName).toString(36);
    const record = { ...layer, directoryName };
    await writeFlushed(this.treePathOf(directoryName), ingest.tree);
    await flushDirectory(join(this.#root, 'trees'));
    channels.pullStep.publish('listed');
    await rename(ingest.directory, this.pathOf(directoryName));
    await flushDirectory(this.layersDirectory);
    channels.pullStep.publish('moved');
    await this.writeLayer(record);
    channels.pullStep.publish('recorded');
    return record;
  }

  async writeLayer(record: LayerRecord): Promise<void> {
    await this.#layers.write(record.directoryName, record);
  }

  /** Removes a layer that nothing uses: gone at once, deleted in the time that it takes. */
  async discard(directoryName: string): Promise<void> {
    await this.#layers.remove(directoryName);
    const trash = join(this.#root, 'trash', directoryName);
    await rename(this.pathOf(directoryName), trash);
    await rm(trash, { recursive: true });
    await rm(this.treePathOf(directoryName), { force: true });
  }

  async writeImage(image: ImageRecord): Promise<void> {
    await this.#images.write(imageRecordName(image.reference), image);
  }

  async removeImage(reference: string): Promise<void> {
    await this.#images.remove(imageRecordName(reference));
  }

  async writeOrder(chainIds: Digest[]): Promise<void> {
    await this.#order.write(orderName, chainIds);
  }

  async #loadLayers(): Promise<LayerRecord[]> {
    const records = await this.#layers.load();
    const directories = new Set(await readdir(this.layersDirectory));
    const byId = new Map<Digest, LayerRecord>();
    for (const [name, record] of records) {
      const isWhole = record.directoryName === name && directories.has(name);
      if (isWhole && !byId.has(record.chainId)) byId.set(record.chainId, record);
      else await this.#layers.remove(name);
    }
    const kept = new Set([...byId.values()].map(({ directoryName }) => directoryName));
    for (const name of directories) {
      if (!kept.has(name)) await rm(this.pathOf(name), { recursive: true });
    }
    for (const name of await readdir(join(this.#root, 'trees'))) {
      if (!kept.has(name)) await rm(this.treePathOf(name), { recursive: true });
    }
    this.#lastName = Math.max(0, ...[...kept].map(nameNumber));
    const order = (await this.#order.load()).get(orderName) ?? [];
    const rank = new Map(order.map((id, index) => [id, index]));
    // What came after the order was last written is the newest.
    const rankOf = (layer: LayerRecord) => rank.get(layer.chainId) ?? order.length;
    return [...byId.values()].sort(
      (a, b) => rankOf(a) - rankOf(b) || nameNumber(a.directoryName) - nameNumber(b.directoryName),
    );
  }
}

function nameNumber(directoryName: string): number {
  return Number.parseInt(directoryName, 36);
}

/** References hold slashes and may be long. */
function imageRecordName(reference: string): string {
  return hexOf(digestOf(reference));
}
