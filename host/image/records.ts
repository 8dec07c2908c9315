/**
 * What the layer store knows, as JSON files beside the layers: written whole, flushed, then
 * renamed, so that a crash leaves the old record or the new one.
 */
import { mkdir, open, readFile, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isErrno } from '../sys/errors.ts';
import { isDigest } from './digest.ts';
import type { Digest } from './digest.ts';

const digest = z.custom<Digest>((value) => typeof value === 'string' && isDigest(value));
const strings = z.record(z.string(), z.string());

export const layerRecordSchema = z.object({
  chainId: digest,
  diffId: digest,
  digest,
  parentChainId: digest.optional(),
  sizeBytes: z.int().nonnegative(),
  directoryName: z.string().regex(/^[0-9a-z]+$/),
  pinned: z.boolean(),
});
export const imageRecordSchema = z.object({
  reference: z.string(),
  digest,
  chainIds: z.array(digest).min(1),
  config: z.object({
    architecture: z.string(),
    os: z.string(),
    user: z.string(),
    env: strings,
    entrypoint: z.array(z.string()),
    command: z.array(z.string()),
    workingDirectory: z.string(),
    labels: strings,
    diffIds: z.array(digest),
  }),
  /** What a push needs: the documents as they were, and where the blobs are. */
  origin: z
    .object({
      manifest: z.string(),
      configuration: z.string(),
      /** One of them. */
      directory: z.string().optional(),
      remote: z.object({ reference: z.string(), insecure: z.boolean() }).optional(),
    })
    .optional(),
});
export const orderRecordSchema = z.array(digest);

export type LayerRecord = z.infer<typeof layerRecordSchema>;
export type ImageRecord = z.infer<typeof imageRecordSchema>;
export type ImageOrigin = NonNullable<ImageRecord['origin']>;

/** A directory of records of one kind, by name. */
export class RecordDirectory<T> {
  readonly #directory: string;
  readonly #schema: z.ZodType<T>;
  #lastWrite = 0;

  constructor(directory: string, schema: z.ZodType<T>) {
    this.#directory = directory;
    this.#schema = schema;
  }

  /** All records; files that are none, half-written ones among them, are removed. */
  async load(): Promise<Map<string, T>> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const records = new Map<string, T>();
    for (const file of await readdir(this.#directory)) {
      const name = file.endsWith('.json') ? file.slice(0, -'.json'.length) : undefined;
      const record = name === undefined ? undefined : await this.#read(file);
      if (name === undefined || record === undefined)
        await rm(join(this.#directory, file), { recursive: true });
      else records.set(name, record);
    }
    return records;
  }

  async write(name: string, record: T): Promise<void> {
    const path = join(this.#directory, `${name}.json`);
    // Two writers of one record do not write into each other's file: the later rename counts.
    const written = `${path}.${++this.#lastWrite}.new`;
    await writeFlushed(written, JSON.stringify(record));
    await rename(written, path);
    await flushDirectory(this.#directory);
  }

  async remove(name: string): Promise<void> {
    await rm(join(this.#directory, `${name}.json`), { force: true });
  }

  async #read(file: string): Promise<T | undefined> {
    const text = await readFile(join(this.#directory, file), 'utf8');
    try {
      return this.#schema.safeParse(JSON.parse(text)).data;
    } catch {
      return undefined;
    }
  }
}

/** Writes a file whole, and waits until it is on the disk. */
export async function writeFlushed(
  path: string,
  content: string | AsyncIterable<string>,
): Promise<void> {
  await using file = await open(path, 'w', 0o600);
  await file.writeFile(content);
  await file.sync();
}

/** Makes renames in a directory survive a power cut. */
export async function flushDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  try {
    await directory.sync();
  } catch (error) {
    // Some file systems know no fsync of directories.
    if (!isErrno(error, 'EINVAL')) throw error;
  }
}
