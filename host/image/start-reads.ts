/**
 * What the starts of a function read of its layers, so that the next one whose files are no longer
 * in memory has them read while its container is being made.
 *
 * It is written down once, a moment after a first start: of the layers that functions bring, which
 * were dropped from memory once before, what is in memory now; of the runtime's, which all use,
 * what its processes have touched that the zygote has not. Lists are kept by chain ids, so they
 * outlive the host and the layers' copies here, and fit no other content.
 */
import { lstat, realpath } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { z } from 'zod';
import { parentOf, touchedPages } from '../sys/mapped-files.ts';
import { cachedRanges, dropCached, pageBytes, readIn } from '../sys/page-cache.ts';
import type { ByteRange } from '../sys/page-cache.ts';
import { digestOf, hexOf, type Digest } from './digest.ts';
import { filesIn, openFile } from './read-ahead.ts';
import { RecordDirectory } from './records.ts';

const natural = z.int().nonnegative();
const listSchema = z.object({
  files: z.array(
    z.object({
      /** From the bottom. */
      layer: natural,
      /** Relative to it. */
      path: z.string(),
      ranges: z.array(z.object({ offsetBytes: natural, lengthBytes: natural })),
    }),
  ),
});
type ReadList = z.infer<typeof listSchema>;
type ListedFile = ReadList['files'][number];

export interface StartReadsOptions {
  /** Made when it is missing; no other process uses it. */
  directory: string;
  /** A function that was started so long ago, or sooner, finds its files in memory. */
  warmMs?: number;
  /** From the end of a first start until it is looked at what it has read. */
  settleMs?: number;
}

/** Of one function; its `startReads`. */
export interface FunctionReads {
  /** A start is known: begins to read ahead what it will read. Gives how many bytes, or 0. */
  begin(): number;
  /** It has ended well. `processes` gives those of its container, none when that is gone. */
  ended(processes: () => readonly number[]): void;
  /** Its layers may go. */
  release(): void;
}

export interface ReadLayer {
  chainId: Digest;
  path: string;
  /** It belongs to the image that the zygote runs. */
  ofRuntime: boolean;
}

/** Bottom first. */
type Layers = readonly ReadLayer[];

export const startReadBounds = {
  lists: 1000,
  /** Of one list. */
  bytes: 32 * 2 ** 20,
  files: 512,
  /** As far as a file is looked at. */
  sizeOfFile: 2 ** 28,
  rangesOfFile: 256,
  /** Of what is read in between, rather than told apart. */
  gapBytes: 64 * 1024,
  /** Layers with more are left alone: looking at each takes longer than it gains. */
  filesOfLayer: 10_000,
  /** Of a container that are looked at. */
  processes: 8,
} as const;

export class StartReads {
  readonly #records: RecordDirectory<ReadList>;
  readonly #lists: Map<string, ReadList>;
  readonly #settings: Required<Omit<StartReadsOptions, 'directory'>>;
  readonly #followed = new Set<FollowedFunction>();
  /** By chain id, whether it can be looked at. Once each: others may have read of it since. */
  readonly #dropped = new Map<Digest, Promise<boolean>>();

  static async open(options: StartReadsOptions): Promise<StartReads> {
    const records = new RecordDirectory(options.directory, listSchema);
    return new StartReads(records, await records.load(), options);
  }

  private constructor(
    records: RecordDirectory<ReadList>,
    lists: Map<string, ReadList>,
    { warmMs = 30_000, settleMs = 1000 }: StartReadsOptions,
  ) {
    this.#records = records;
    this.#lists = lists;
    this.#settings = { warmMs, settleMs };
  }

  /** Until released, for layers that starts are about to use. */
  async follow(layers: Layers): Promise<FunctionReads> {
    // All of them: one bundle may lie on several images.
    const name = hexOf(digestOf(layers.map(({ chainId }) => chainId).join(' ')));
    const followed = new FollowedFunction({
      ...this.#settings,
      layers,
      list: this.#lists.get(name),
      drop: (layer) => this.#drop(layer),
      onRecorded: (list) => this.#keep(name, list),
      onReleased: () => this.#followed.delete(followed),
    });
    this.#followed.add(followed);
    await followed.prepare();
    return followed;
  }

  /** Ends what is being recorded. */
  async close(): Promise<void> {
    await Promise.all([...this.#followed].map((followed) => followed.close()));
  }

  #drop({ chainId, path }: ReadLayer): Promise<boolean> {
    const dropped = this.#dropped.get(chainId) ?? dropFrom(path);
    this.#dropped.set(chainId, dropped);
    return dropped;
  }

  async #keep(name: string, list: ReadList): Promise<void> {
    const [oldest] = this.#lists.keys();
    if (oldest !== undefined && this.#lists.size >= startReadBounds.lists) {
      this.#lists.delete(oldest);
      await this.#records.remove(oldest);
    }
    this.#lists.set(name, list);
    await this.#records.write(name, list);
  }
}

interface FollowedFunctionOptions extends Required<Omit<StartReadsOptions, 'directory'>> {
  layers: Layers;
  list: ReadList | undefined;
  drop: (layer: ReadLayer) => Promise<boolean>;
  onRecorded: (list: ReadList) => Promise<void>;
  onReleased: () => void;
}

class FollowedFunction implements FunctionReads {
  readonly #options: FollowedFunctionOptions;
  #list: ReadList | undefined;
  #listBytes = 0;
  #begunAtMs = -Infinity;
  #recordable = false;
  /** Layers whose files are looked at. */
  readonly #looked = new Set<ReadLayer>();
  #released = false;
  #timer: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();

  constructor(options: FollowedFunctionOptions) {
    this.#options = options;
    this.#use(options.list);
  }

  begin(): number {
    const nowMs = performance.now();
    const isWarm = nowMs - this.#begunAtMs <= this.#options.warmMs;
    this.#begunAtMs = nowMs;
    if (isWarm || this.#list === undefined) return 0;
    this.#inBackground(readListed(this.#options.layers, this.#list));
    return this.#listBytes;
  }

  ended(processes: () => readonly number[]): void {
    if (!this.#recordable) return;
    this.#recordable = false;
    const record = (): void => this.#inBackground(this.#record(processes));
    this.#timer = setTimeout(record, this.#options.settleMs).unref();
  }

  release(): void {
    this.#released = true;
    clearTimeout(this.#timer);
    this.#options.onReleased();
  }

  async prepare(): Promise<void> {
    if (this.#list !== undefined) return;
    for (const layer of this.#options.layers)
      if (!layer.ofRuntime && (await this.#options.drop(layer))) this.#looked.add(layer);
    this.#recordable = true;
  }

  async close(): Promise<void> {
    this.release();
    await this.#work;
  }

  async #record(processes: () => readonly number[]): Promise<void> {
    try {
      const { layers } = this.#options;
      const files = await touchedFiles(layers, processes().slice(0, startReadBounds.processes));
      for (const [layer, one] of layers.entries())
        if (this.#looked.has(one)) files.unshift(...(await cachedFiles(layer, one.path)));
      const list = bounded(files);
      // Of layers that are going there may be a part.
      if (this.#released) return;
      this.#use(list);
      await this.#options.onRecorded(list);
    } catch {
      // The instance has ended meanwhile: the next one will do.
      this.#recordable = !this.#released;
    }
  }

  #use(list: ReadList | undefined): void {
    this.#list = list;
    this.#listBytes = list === undefined ? 0 : sumOf(list.files.flatMap(({ ranges }) => ranges));
  }

  /** All of it is a hint: a start reads what it needs in any case. */
  #inBackground(work: Promise<void>): void {
    this.#work = Promise.allSettled([this.#work, work]).then(() => undefined);
  }
}

/** False when there are too many files, or they went meanwhile. */
async function dropFrom(layerPath: string): Promise<boolean> {
  let files = 0;
  try {
    for await (const name of filesIn(layerPath)) {
      if (++files > startReadBounds.filesOfLayer) return false;
      await using file = await openFile(name);
      dropCached(file.fd);
    }
    return true;
  } catch {
    return false;
  }
}

/** What is in memory of a layer. */
async function cachedFiles(layer: number, layerPath: string): Promise<ListedFile[]> {
  const files: ListedFile[] = [];
  for await (const name of filesIn(layerPath)) {
    await using file = await openFile(name);
    const { size } = await file.stat();
    const ranges = cachedRanges(file.fd, Math.min(size, startReadBounds.sizeOfFile));
    files.push({ layer, path: relative(layerPath, name), ranges: joined(ranges) });
  }
  return files;
}

/**
 * What these processes have touched of files of the runtime; but not what the zygote has that they
 * were forked from, which is in memory for its sake.
 */
async function touchedFiles(layers: Layers, pids: readonly number[]): Promise<ListedFile[]> {
  if (pids.length === 0) throw new Error('The container is gone');
  const zygotes = await Promise.all(pids.map(parentOf));
  const kept = await touchedBy(new Set(zygotes.filter((pid) => !pids.includes(pid))));
  const files: ListedFile[] = [];
  for (const [path, pages] of await touchedBy(pids)) {
    const layer = await layerOf(layers, path);
    if (layer === undefined || layers[layer]?.ofRuntime !== true) continue;
    const read = [...pages].filter((offsetBytes) => kept.get(path)?.has(offsetBytes) !== true);
    const ranges = joined(read.map((offsetBytes) => ({ offsetBytes, lengthBytes: pageBytes })));
    files.push({ layer, path: path.slice(1), ranges });
  }
  return files;
}

async function touchedBy(pids: Iterable<number>): Promise<Map<string, Set<number>>> {
  const all = new Map<string, Set<number>>();
  for (const pid of pids)
    for (const [path, pages] of await touchedPages(pid))
      all.set(path, new Set([...(all.get(path) ?? []), ...pages]));
  return all;
}

/** The topmost that has it as a file. Neither a link nor a name of `..` leads out of the layer. */
async function layerOf(layers: Layers, path: string): Promise<number | undefined> {
  for (const [layer, { path: layerPath }] of [...layers.entries()].toReversed()) {
    const full = join(layerPath, path);
    if (relative(layerPath, full).startsWith('..')) continue;
    try {
      if ((await realpath(full)) === full && (await lstat(full)).isFile()) return layer;
    } catch {
      // Not in this one.
    }
  }
  return undefined;
}

/** In order, with what lies between two that are close. */
function joined(ranges: readonly ByteRange[]): ByteRange[] {
  const all: ByteRange[] = [];
  for (const { offsetBytes, lengthBytes } of ranges.toSorted(
    (a, b) => a.offsetBytes - b.offsetBytes,
  )) {
    const last = all.at(-1);
    const lastEnd = last === undefined ? -Infinity : last.offsetBytes + last.lengthBytes;
    if (last !== undefined && offsetBytes - lastEnd <= startReadBounds.gapBytes)
      last.lengthBytes = Math.max(lastEnd, offsetBytes + lengthBytes) - last.offsetBytes;
    else all.push({ offsetBytes, lengthBytes });
  }
  return all.slice(0, startReadBounds.rangesOfFile);
}

/** The first of them, as many as a list may have. */
function bounded(files: readonly ListedFile[]): ReadList {
  let leftBytes: number = startReadBounds.bytes;
  const kept: ListedFile[] = [];
  for (const file of files) {
    const ranges: ByteRange[] = [];
    for (const { offsetBytes, lengthBytes } of file.ranges) {
      if (leftBytes > 0)
        ranges.push({ offsetBytes, lengthBytes: Math.min(lengthBytes, leftBytes) });
      leftBytes -= lengthBytes;
    }
    if (ranges.length > 0) kept.push({ ...file, ranges });
  }
  return { files: kept.slice(0, startReadBounds.files) };
}

async function readListed(layers: Layers, { files }: ReadList): Promise<void> {
  // Some at a time: inodes have to be read too, and other work needs threads of the same pool.
  const queue = files.values();
  const readSome = async (): Promise<void> => {
    for (const { layer, path, ranges } of queue) {
      const layerPath = layers[layer]?.path;
      if (layerPath === undefined) continue;
      await using file = await openFile(join(layerPath, path));
      for (const range of ranges) await readIn(file.fd, range);
    }
  };
  await Promise.all([readSome(), readSome()]);
}

function sumOf(ranges: readonly ByteRange[]): number {
  return ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}
