/**
 * What is kept ready for a burst of calls that somebody told of: layers are fetched in the order of
 * the plan, leased so that nothing evicts them, and read into memory; all until the burst is over.
 * One burst at a time: a new one takes the place of the one before.
 */
import { freemem } from 'node:os';
import type { Readable } from 'node:stream';
import { HatchError, messageOf } from '../base/errors.ts';
import { chainId, type Digest } from './digest.ts';
import type { Lease } from './layer-cache.ts';
import type { LayerImport } from './image-import.ts';
import type { LayerStore } from './layer-store.ts';
import { planBurst } from './policy/burst-plan.ts';
import { readAhead } from './read-ahead.ts';
import type { StoredLayer } from './stored-image.ts';

/** A layer and where it comes from when it is not stored here: object store or registry. */
export interface LayerSource extends Omit<LayerImport, 'blob'> {
  open: () => Promise<Readable>;
}

/** An image that functions stand on. */
export interface BurstImage {
  /** Bottom first. */
  layers: readonly LayerSource[];
  /** When its layers are here: makes it an image that is found without asking the registry. */
  keep: () => Promise<unknown>;
}

export interface BurstFunction {
  name: string;
  /** How many calls are expected; only the proportions count. */
  calls: number;
  /** Bottom first, from the first one on that the host does not hold anyway. */
  layers: readonly LayerSource[];
  images?: readonly BurstImage[];
}

export interface BurstReport {
  /** Functions with all layers on this disk, held until the burst is over. */
  ready: string[];
  notReady: { name: string; reason: string }[];
  pinnedBytes: number;
  fetchedLayers: number;
  /** As they came, compressed. */
  fetchedBytes: number;
  /** Brought into memory from the disk, or on their way. */
  readAheadBytes: number;
}

type Store = Pick<LayerStore, 'acquire' | 'importLayer' | 'isHeld' | 'layer' | 'usage'>;

export class BurstPins {
  readonly #store: Store;
  #held: HeldBurst | undefined;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Resolves when all that fits is here. What cannot be fetched is reported, and no error. */
  async pin(functions: readonly BurstFunction[], forMs: number): Promise<BurstReport> {
    // At once until what is here is held again, so that nothing can be evicted between.
    this.release();
    const sources = new Map<Digest, LayerSource>();
    for (const layer of functions.flatMap(allLayersOf)) sources.set(idOf(layer), layer);
    const { pinned } = planBurst(
      functions.map(({ calls, layers, images = [] }) => ({
        starts: calls,
        layers: this.#sized(layers),
        images: images.map((image) => this.#sized(image.layers)),
      })),
      this.#roomBytes(),
    );
    const held = new HeldBurst();
    this.#held = held;
    for (const id of pinned) if (this.#store.layer(id) !== undefined) this.#hold(held, id);
    const end = (): void => held.release();
    held.timer = setTimeout(end, forMs).unref();
    const report = await this.#fetch(held, pinned, sources);
    await this.#keepImages(held, functions);
    return { ...this.#readiness(held, functions), ...report };
  }

  /** Lets go of what is held for the burst; it may be evicted from then on. */
  release(): void {
    this.#held?.release();
    this.#held = undefined;
  }

  async #fetch(
    held: HeldBurst,
    pinned: readonly Digest[],
    sources: ReadonlyMap<Digest, LayerSource>,
  ): Promise<Omit<BurstReport, 'ready' | 'notReady'>> {
    const counts = { pinnedBytes: 0, fetchedLayers: 0, fetchedBytes: 0, readAheadBytes: 0 };
    let memoryBytes = freemem() * readAheadShare;
    for (const id of pinned) {
      const source = sources.get(id);
      if (source === undefined || held.isOver) continue;
      try {
        if (this.#store.layer(id) === undefined) {
          const { open, ...layer } = source;
          await this.#store.importLayer({ ...layer, blob: open });
          counts.fetchedLayers++;
          counts.fetchedBytes += layer.sizeBytes;
        }
        const stored = this.#hold(held, id);
        counts.pinnedBytes += stored.sizeBytes;
        const bytes = await readAhead(stored.path, memoryBytes);
        memoryBytes -= bytes;
        counts.readAheadBytes += bytes;
      } catch (error) {
        held.failures.set(id, messageOf(error));
      }
    }
    return counts;
  }

  async #keepImages(held: HeldBurst, functions: readonly BurstFunction[]): Promise<void> {
    for (const { layers, keep } of functions.flatMap(({ images = [] }) => images)) {
      const top = layers.at(-1);
      if (top === undefined || held.isOver || !layers.every((one) => held.leases.has(idOf(one))))
        continue;
      try {
        await keep();
      } catch (error) {
        held.failures.set(idOf(top), messageOf(error));
      }
    }
  }

  #hold(held: HeldBurst, id: Digest): StoredLayer {
    const known = held.leases.get(id);
    const lease = known ?? this.#store.acquire([id]);
    const [layer] = lease.layers;
    if (layer === undefined) throw new HatchError('image.not_found', `Layer ${id} is gone`);
    if (held.isOver) lease.release();
    else held.leases.set(id, lease);
    return layer;
  }

  #readiness(
    held: HeldBurst,
    functions: readonly BurstFunction[],
  ): Pick<BurstReport, 'ready' | 'notReady'> {
    const ready: string[] = [];
    const notReady: BurstReport['notReady'] = [];
    for (const fn of functions) {
      const { name } = fn;
      const ids = allLayersOf(fn).map(idOf);
      const missing = ids.find((id) => !held.leases.has(id) || held.failures.has(id));
      if (missing === undefined) ready.push(name);
      else notReady.push({ name, reason: held.failures.get(missing) ?? held.whyNot });
    }
    return { ready, notReady };
  }

  /** What somebody else holds anyway takes no room of the burst. */
  #sized(layers: readonly LayerSource[]): { chainId: Digest; sizeBytes: number }[] {
    return layers.map((layer) => {
      const id = idOf(layer);
      const stored = this.#store.layer(id)?.sizeBytes ?? layer.sizeBytes * unpackedRatio;
      return { chainId: id, sizeBytes: this.#store.isHeld(id) ? 0 : stored };
    });
  }

  #roomBytes(): number {
    const { capacityBytes, heldBytes } = this.#store.usage;
    return Math.max(capacityBytes * (1 - unplannedShare) - heldBytes, 0);
  }
}

function allLayersOf({ layers, images = [] }: BurstFunction): LayerSource[] {
  return [...images.flatMap((image) => image.layers), ...layers];
}

function idOf({ parentChainId, diffId }: LayerSource): Digest {
  return chainId(parentChainId, diffId);
}

class HeldBurst {
  readonly leases = new Map<Digest, Lease<StoredLayer>>();
  readonly failures = new Map<Digest, string>();
  timer: NodeJS.Timeout | undefined;
  isOver = false;

  get whyNot(): string {
    return this.isOver ? 'the burst was over before' : 'there is no room for its layers';
  }

  release(): void {
    this.isOver = true;
    clearTimeout(this.timer);
    for (const lease of this.leases.values()) lease.release();
  }
}

/** Of the capacity: for functions that nobody told of. */
const unplannedShare = 0.1;
/** Of the memory that is available: for files of layers. */
const readAheadShare = 0.25;
/** JavaScript, the usual content, compresses to about a quarter. */
const unpackedRatio = 4;
