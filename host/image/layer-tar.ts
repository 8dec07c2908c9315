/**
 * Writes a layer as a tar whose bytes depend on its entries only: sorted, one fixed time, no names
 * of users, so that equal inputs have equal digests on every machine.
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import type { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip, createZstdCompress } from 'node:zlib';
import { pack } from 'tar-stream';
import type { Header, Pack } from 'tar-stream';
import { HatchError } from '../base/errors.ts';
import { DigestMeter } from './digest.ts';
import type { Digest } from './digest.ts';

interface EntryBase {
  /** Relative to the layer's root, without a leading slash: `usr/bin/node`. */
  path: string;
  /** Numeric owner; 0 by default. */
  uid?: number;
  gid?: number;
}

export type LayerEntry =
  | (EntryBase & { type: 'file'; mode: number; content: Uint8Array | string })
  | (EntryBase & { type: 'file'; mode: number; file: string })
  | (EntryBase & { type: 'directory'; mode: number })
  | (EntryBase & { type: 'symlink'; target: string })
  /** A second name for the file entry at path `target`. */
  | (EntryBase & { type: 'hardlink'; target: string });

export type Compression = 'zstd' | 'gzip' | 'none';

export interface LayerBlob {
  /** Of the file as written. */
  digest: Digest;
  sizeBytes: number;
  /** Of the uncompressed tar. */
  diffId: Digest;
  mediaType: string;
}

const mediaTypes: Record<Compression, string> = {
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  none: 'application/vnd.oci.image.layer.v1.tar',
};
type EntryHeader = Partial<Header> & Pick<Header, 'name'>;

// One second past the epoch: some programs take a time of 0 for "unknown".
const entryTime = new Date(1000);
// ustar's owner fields have six octal digits.
const ownerMax = 0o777777;
const chunkBytes = 256 * 1024;

/**
 * Writes `entries` to the new file `destination`. Missing parent directories become entries of
 * root with mode 0755; of two entries of one path the later wins.
 */
export async function writeLayer(options: {
  entries: Iterable<LayerEntry>;
  destination: string;
  compression: Compression;
}): Promise<LayerBlob> {
  const unlimited = { bytesMax: Infinity, tooLarge: () => new Error('unreachable') };
  const diff = new DigestMeter(unlimited);
  const blob = new DigestMeter(unlimited);
  const tar = pack();
  await Promise.all([
    pipeline(
      tar,
      diff,
      compressor(options.compression),
      blob,
      createWriteStream(options.destination, { flags: 'wx' }),
    ),
    packEntries(tar, sortedEntries(options.entries)),
  ]);
  return {
    digest: blob.digest(),
    sizeBytes: blob.bytes,
    diffId: diff.digest(),
    mediaType: mediaTypes[options.compression],
  };
}

function sortedEntries(entries: Iterable<LayerEntry>): LayerEntry[] {
  const byPath = new Map<string, LayerEntry>();
  for (const entry of entries) {
    checkEntry(entry);
    byPath.set(entry.path, entry);
  }
  for (const path of byPath.keys()) {
    const parts = path.split('/').slice(0, -1);
    for (let depth = parts.length; depth > 0; depth--) {
      const parent = parts.slice(0, depth).join('/');
      if (byPath.has(parent)) break;
      byPath.set(parent, { type: 'directory', path: parent, mode: 0o755 });
    }
  }
  // Parents sort before what is in them; hard links go last, after the files they name.
  return [...byPath.values()].sort(
    (a, b) =>
      Number(a.type === 'hardlink') - Number(b.type === 'hardlink') ||
      Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)),
  );
}

function checkEntry(entry: LayerEntry): void {
  const parts = entry.path.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..'))
    throw new HatchError('image.invalid', `Cannot write layer entry "${entry.path}": give a path`);
  for (const owner of [entry.uid ?? 0, entry.gid ?? 0]) {
    if (!Number.isInteger(owner) || owner < 0 || owner > ownerMax)
      throw new HatchError(
        'image.invalid',
        `Cannot write layer entry "${entry.path}": owner ${owner} is not in 0..${ownerMax}`,
      );
  }
}

async function packEntries(tar: Pack, entries: LayerEntry[]): Promise<void> {
  try {
    for (const entry of entries) await packEntry(tar, entry);
    tar.finalize();
  } catch (error) {
    tar.destroy(error instanceof Error ? error : new Error(String(error)));
    throw error;
  }
}

async function packEntry(tar: Pack, entry: LayerEntry): Promise<void> {
  const header = {
    name: entry.type === 'directory' ? `${entry.path}/` : entry.path,
    uid: entry.uid ?? 0,
    gid: entry.gid ?? 0,
    mtime: entryTime,
  };
  switch (entry.type) {
    case 'directory':
      return writeEntry(tar, { ...header, type: 'directory', mode: entry.mode });
    case 'symlink':
      return writeEntry(tar, { ...header, type: 'symlink', mode: 0o777, linkname: entry.target });
    case 'hardlink':
      return writeEntry(tar, { ...header, type: 'link', mode: 0o644, linkname: entry.target });
    case 'file':
      if ('file' in entry)
        return writeFile(tar, { ...header, type: 'file', mode: entry.mode }, entry.file);
      return writeEntry(
        tar,
        { ...header, type: 'file', mode: entry.mode },
        Buffer.from(entry.content),
      );
  }
}

function writeEntry(tar: Pack, header: EntryHeader, content?: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    tar.entry(header, content ?? Buffer.alloc(0), (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

async function writeFile(tar: Pack, header: EntryHeader, file: string): Promise<void> {
  const { size } = await stat(file);
  const sink = tar.entry({ ...header, size });
  await pipeline(createReadStream(file, { highWaterMark: chunkBytes }), sink);
}

function compressor(compression: Compression): Transform {
  switch (compression) {
    case 'none':
      return new PassThrough();
    case 'gzip':
      return createGzip({ level: 6, chunkSize: chunkBytes });
    case 'zstd':
      return createZstdCompress({
        chunkSize: chunkBytes,
        params: {
          [constants.ZSTD_c_compressionLevel]: 3,
          [constants.ZSTD_c_checksumFlag]: 1,
        },
      });
  }
}
