/** Unpacks one layer blob into an empty directory, digests checked on the way. */
import { execFile } from 'node:child_process';
import { closeSync, constants, createReadStream, fsync } from 'node:fs';
import { PassThrough } from 'node:stream';
import type { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { extract } from 'tar-stream';
import type { Extract } from 'tar-stream';

import { HatchError, messageOf } from '../base/errors.ts';
import { changeTimeAt } from '../sys/file.ts';
import { applyEntry, checkHeader } from './apply-entry.ts';
import type { Made } from './apply-entry.ts';
import { DigestMeter } from './digest.ts';
import type { Digest } from './digest.ts';
import { LayerDirectory } from './layer-directory.ts';
import { invalidEntry } from './layer-path.ts';
import type { FileDigests } from './layer-tree.ts';
import { diskFull } from './disk-full.ts';

export interface UnpackLimits {
  /** Files, directories, links and whiteouts of one layer. */
  entriesMax: number;
  /** Sum of all files' sizes; the tar itself may be somewhat larger. */
  unpackedBytesMax: number;
  /** How many times larger than its blob a layer may be, where it is more than 64 MiB. */
  expansionMax: number;
}

export const defaultUnpackLimits: UnpackLimits = {
  entriesMax: 200_000,
  unpackedBytesMax: 4 * 1024 ** 3,
  expansionMax: 200,
};

export interface LayerSource {
  /** A path or a stream of the blob: tar, plain or compressed by gzip or zstd. */
  blob: string | Readable;
  /** What the blob must be, as stored: compressed. */
  digest: Digest;
  sizeBytes: number;
  /** Of the uncompressed tar. */
  diffId: Digest;
}

export interface UnpackedLayer {
  unpackedBytes: number;
  fileDigests: FileDigests;
}

const chunkBytes = 256 * 1024;
const blockBytes = 512;
/** Up to here it does not matter how well a layer is compressed. */
const expandedBytesMin = 64 * 1024 * 1024;
// Headers, padding and pax records beside the files' data.
const tarBytesPerEntryMax = 16 * 1024;
// Up to here fsync of each file is cheaper than writing out the whole file system.
const syncedOneByOneMax = 64;
const gzipMagic = Buffer.from([0x1f, 0x8b]);
const zstdMagic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
const execute = promisify(execFile);
const fsyncAsync = promisify(fsync);

/**
 * Applies `source` to the empty `directory`, which nobody else may touch until this returns; then
 * all is on disk. `lowers` are the unpacked layers below, uppermost first. Throws `image.invalid`,
 * `details.limit` set when a limit was the reason; the directory is then in an undefined state.
 */
export async function unpackLayer(options: {
  source: LayerSource;
  directory: string;
  lowers: readonly string[];
  limits?: Partial<UnpackLimits>;
}): Promise<UnpackedLayer> {
  const { source } = options;
  const limits = { ...defaultUnpackLimits, ...options.limits };
  const compressed = new DigestMeter({
    bytesMax: source.sizeBytes,
    tooLarge: () => mismatch('size', `${source.sizeBytes} bytes`, 'more'),
  });
  const tar = tarMeter(source, limits);
  const extractor = extract();
  using layer = new LayerDirectory(options.directory, options.lowers);
  const { stream, decompressor } = await openSource(source.blob);
  const [piped, applied] = await Promise.allSettled([
    pipeline(stream, compressed, decompressor, tar, wholeBlocks, extractor),
    applyAll(layer, extractor, limits),
  ]);
  if (applied.status === 'rejected' && applied.reason instanceof HatchError) throw applied.reason;
  if (piped.status === 'rejected') throw unreadable(piped.reason);
  if (applied.status === 'rejected') throw unreadable(applied.reason);
  expectEqual('size', String(source.sizeBytes), String(compressed.bytes));
  expectEqual('digest', source.digest, compressed.digest());
  expectEqual('diffID', source.diffId, tar.digest());
  // What is missing may be padding, but no data.
  const tail = tar.bytes % blockBytes;
  if (tail !== 0 && tail !== applied.value.lastSizeBytes % blockBytes)
    throw unreadable(new Error('Unexpected end of data'));
  await flush(layer, applied.value.made);
  return { unpackedBytes: applied.value.bytes, fileDigests: applied.value.fileDigests };
}

function tarMeter({ sizeBytes }: LayerSource, limits: UnpackLimits): DigestMeter {
  const { unpackedBytesMax, entriesMax, expansionMax } = limits;
  const expandedBytesMax = Math.max(expandedBytesMin, sizeBytes * expansionMax);
  const tarBytesMax = unpackedBytesMax + entriesMax * tarBytesPerEntryMax;
  return expandedBytesMax < tarBytesMax
    ? new DigestMeter({
        bytesMax: expandedBytesMax,
        tooLarge: () => overLimit('expansionMax', expansionMax),
      })
    : new DigestMeter({
        bytesMax: tarBytesMax,
        tooLarge: () => overLimit('unpackedBytesMax', unpackedBytesMax),
      });
}

async function openSource(
  blob: string | Readable,
): Promise<{ stream: AsyncIterable<Uint8Array>; decompressor: Transform }> {
  const readable =
    typeof blob === 'string' ? createReadStream(blob, { highWaterMark: chunkBytes }) : blob;
  const iterator = readable.iterator() as AsyncIterableIterator<Uint8Array>;
  let head = Buffer.alloc(0);
  while (head.length < zstdMagic.length) {
    const next = await iterator.next().catch((error: unknown) => {
      throw unreadable(error);
    });
    if (next.done === true) break;
    head = Buffer.concat([head, next.value]);
  }
  async function* whole(): AsyncGenerator<Uint8Array> {
    yield head;
    yield* iterator;
  }
  return { stream: whole(), decompressor: decompressorFor(head) };
}

function decompressorFor(head: Buffer): Transform {
  const options = { chunkSize: chunkBytes };
  if (head.subarray(0, gzipMagic.length).equals(gzipMagic)) return createGunzip(options);
  if (head.subarray(0, zstdMagic.length).equals(zstdMagic)) return createZstdDecompress(options);
  return new PassThrough();
}

/** Some programs, umoci among them, leave out what should pad the last entry to a whole block. */
async function* wholeBlocks(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    yield chunk;
  }
  if (bytes % blockBytes !== 0) yield Buffer.alloc(blockBytes - (bytes % blockBytes));
}

interface AppliedAll {
  bytes: number;
  made: Made[];
  fileDigests: FileDigests;
  /** Of the last entry's data. */
  lastSizeBytes: number;
}

type Source = Extract extends AsyncIterable<infer S> ? S : never;

async function applyAll(
  layer: LayerDirectory,
  extractor: Extract,
  limits: UnpackLimits,
): Promise<AppliedAll> {
  const made: Made[] = [];
  const fileDigests = new Map<number, string>();
  let entries = 0;
  let lastSizeBytes = 0;
  let bytes = 0;
  for await (const entry of extractor) {
    if (++entries > limits.entriesMax) throw overLimit('entriesMax', limits.entriesMax);
    lastSizeBytes = entry.header.size;
    bytes += lastSizeBytes;
    if (bytes > limits.unpackedBytesMax)
      throw overLimit('unpackedBytesMax', limits.unpackedBytesMax);
    const header = checkHeader(entry.header);
    const one = await explain(header.path, applyEntry(layer, header, contentOf(entry)));
    entry.resume();
    if (one !== undefined) made.push(one);
    if (one?.content !== undefined) fileDigests.set(one.content.inode, one.content.digest);
  }
  restoreDirectoryTimes(layer, made);
  return { bytes, made, fileDigests, lastSizeBytes };
}

function contentOf(entry: Source): AsyncIterable<Uint8Array> {
  return entry as unknown as AsyncIterable<Uint8Array>;
}

/** What the kernel refuses (a name too long, no space) must say which entry it was. */
async function explain<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof HatchError || !(error instanceof Error) || !('syscall' in error))
      throw error;
    throw diskFull(error, `layer entry "${path}"`) ?? invalidEntry(path, messageOf(error), error);
  }
}

/** Only now: every file made in a directory has changed its time. */
function restoreDirectoryTimes(layer: LayerDirectory, made: Made[]): void {
  for (const { components, kind, timeMs } of made.toReversed()) {
    if (kind !== 'directory') continue;
    layer.ifThere(components, constants.O_DIRECTORY, (fd) => changeTimeAt(fd, '.', timeMs));
  }
}

async function flush(layer: LayerDirectory, made: Made[]): Promise<void> {
  if (made.length > syncedOneByOneMax) {
    // syncfs(2) in a process of its own, since it may take seconds.
    await execute('sync', ['--file-system', layer.root]);
    return;
  }
  const syncable = made.filter(({ kind }) => kind !== 'other').map(({ components }) => components);
  for (const components of [...syncable, []]) {
    const fd = layer.openIfThere(components, constants.O_RDONLY);
    if (fd === undefined) continue;
    try {
      await fsyncAsync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function expectEqual(what: string, expected: string, actual: string): void {
  if (expected !== actual) throw mismatch(what, expected, actual);
}

function mismatch(what: string, expected: string, actual: string): HatchError {
  return new HatchError(
    'image.invalid',
    `Cannot unpack layer: its ${what} must be ${expected}, but is ${actual}`,
    { details: { what, expected, actual } },
  );
}

function overLimit(limit: keyof UnpackLimits, value: number): HatchError {
  const much: Record<typeof limit, string> = {
    entriesMax: `has more than ${value} entries`,
    unpackedBytesMax: `has more than ${value} bytes unpacked`,
    expansionMax: `is more than ${value} times larger unpacked`,
  };
  const message = `Cannot unpack layer: it ${much[limit]}, raise "${limit}" to allow it`;
  return new HatchError('image.invalid', message, { details: { limit, value } });
}

function unreadable(cause: unknown): Error {
  if (cause instanceof HatchError) return cause;
  const full = diskFull(cause, 'layer');
  if (full !== undefined) return full;
  return new HatchError('image.invalid', `Cannot unpack layer: ${messageOf(cause)}`, { cause });
}
