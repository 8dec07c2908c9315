/** A layer made of tar entries, unpacked into a directory of its own, next to one to break into. */
import assert from 'node:assert/strict';
import { lstatSync, readFileSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pack } from 'tar-stream';
import type { Header } from 'tar-stream';
import { digestOf } from '../../host/image/digest.ts';
import { unpackLayer } from '../../host/image/unpack.ts';
import type { UnpackLimits } from '../../host/image/unpack.ts';

export type Entry = Partial<Header> & Pick<Header, 'name'>;

interface ApplyOptions {
  into?: string;
  lowers?: string[];
  limits?: Partial<UnpackLimits>;
  /** What is read instead of the plain tar. */
  blob?: Buffer;
}

export class UnpackBench {
  readonly directory: string;
  readonly layer: string;
  readonly outside: string;

  private constructor(directory: string) {
    this.directory = directory;
    this.layer = join(directory, 'layer');
    this.outside = join(directory, 'outside');
  }

  static async create(): Promise<UnpackBench> {
    const bench = new UnpackBench(await mkdtemp(join(tmpdir(), 'hatch-unpack-')));
    await mkdir(bench.layer);
    await mkdir(bench.outside);
    await writeFile(join(bench.outside, 'secret'), 'secret');
    return bench;
  }

  /** Checks that whatever a layer did, nothing outside of its directory has changed. */
  async remove(): Promise<void> {
    const secret = join(this.outside, 'secret');
    assert.deepEqual(readdirSync(this.outside), ['secret']);
    assert.equal(readFileSync(secret, 'utf8'), 'secret');
    assert.equal(lstatSync(secret).nlink, 1);
    assert.equal(lstatSync(this.outside).mode & 0o7777, 0o755);
    await rm(this.directory, { recursive: true });
  }

  async apply(
    entries: [Entry, content?: string][],
    options: ApplyOptions = {},
  ): Promise<{ unpackedBytes: number }> {
    return this.applyTar(await tarOf(entries), options);
  }

  async applyTar(tar: Buffer, options: ApplyOptions = {}): Promise<{ unpackedBytes: number }> {
    const blob = options.blob ?? tar;
    return unpackLayer({
      source: {
        blob: Readable.from([blob]),
        digest: digestOf(blob),
        sizeBytes: blob.length,
        diffId: digestOf(tar),
      },
      directory: options.into ?? this.layer,
      lowers: options.lowers ?? [],
      limits: options.limits ?? {},
    });
  }

  async refused(entries: [Entry, content?: string][], message: RegExp): Promise<void> {
    await assert.rejects(this.apply(entries), { code: 'image.invalid', message });
  }

  text(...path: string[]): string {
    return readFileSync(join(this.layer, ...path), 'utf8');
  }
}

export async function tarOf(entries: [Entry, content?: string][]): Promise<Buffer> {
  const tar = pack();
  for (const [header, content] of entries)
    tar.entry({ mtime: new Date(5000), ...header }, content ?? '');
  tar.finalize();
  return buffer(Readable.from(tar as unknown as AsyncIterable<Buffer>));
}
