/** Blobs on their way from a registry to being unpacked: as files, each once, a few at a time. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { channels } from '../base/channels.ts';
import { diskFull } from './disk-full.ts';
import type { Digest } from './digest.ts';
import { hexOf } from './digest.ts';

export interface Blob {
  digest: Digest;
  sizeBytes: number;
}

/** A blob as a file, while it is needed. */
export interface TakenBlob {
  path: Promise<string>;
  release(): Promise<void>;
}

/** Gives blobs as files: those of a layout, or downloads. */
export interface BlobFiles {
  take(blob: Blob): TakenBlob;
}

type Fetch = (options: { file: string; signal: AbortSignal }) => Promise<void>;

interface Download {
  users: number;
  file: string;
  path: Promise<string>;
  abort: AbortController;
}

export class Downloads {
  readonly #directory: string;
  readonly #atOnceMax: number;
  readonly #byDigest = new Map<Digest, Download>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #lastName = 0;

  /** `directory` is emptied by whoever owns it, after a crash. */
  constructor(options: { directory: string; atOnceMax: number }) {
    this.#directory = options.directory;
    this.#atOnceMax = options.atOnceMax;
  }

  /**
   * Who asks for a blob that is already on its way gets the same file. When all have released it,
   * it is deleted, and stopped if it was not complete.
   */
  take(blob: Blob, fetch: Fetch): TakenBlob {
    const download = this.#byDigest.get(blob.digest) ?? this.#start(blob, fetch);
    download.users += 1;
    let isReleased = false;
    const release = async (): Promise<void> => {
      if (isReleased) return;
      isReleased = true;
      download.users -= 1;
      if (download.users > 0) return;
      if (this.#byDigest.get(blob.digest) === download) this.#byDigest.delete(blob.digest);
      download.abort.abort();
      await download.path.catch(() => {});
      await rm(download.file, { force: true });
    };
    return { path: download.path, release };
  }

  #start(blob: Blob, fetch: Fetch): Download {
    const abort = new AbortController();
    const { digest } = blob;
    const file = join(this.#directory, `${++this.#lastName}-${hexOf(digest).slice(0, 12)}`);
    const path = this.#inTurn(async () => {
      abort.signal.throwIfAborted();
      await fetch({ file, signal: abort.signal });
      channels.pullStep.publish('downloaded');
      return file;
    }).catch((error: unknown) => {
      // A pull that begins now tries again.
      if (this.#byDigest.get(digest) === download) this.#byDigest.delete(digest);
      throw diskFull(error, `blob ${digest}`) ?? error;
    });
    // Whoever waits hears of it; nobody may be waiting yet.
    path.catch(() => {});
    const download: Download = { users: 0, file, path, abort };
    this.#byDigest.set(digest, download);
    return download;
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#atOnceMax)
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running += 1;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }
}
