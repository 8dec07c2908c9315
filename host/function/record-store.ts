/** A KV bucket: records of JSON, changed by compare-and-swap on revisions. */
import { setTimeout as sleep } from 'node:timers/promises';
import { JetStreamApiCodes, JetStreamApiError } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { KV, KvEntry } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/nats-core';
import { HatchError, messageOf, toHatchError } from '../base/errors.ts';
import { natsRefusal } from './nats-refusal.ts';

export interface StoredRecord {
  key: string;
  json: unknown;
  /** Grows with every change in the bucket. */
  revision: number;
}

export interface RecordWatcher {
  /** All records are about to be given again: a watch starts. */
  onBegin(): void;
  /** A record was written, or `json` is undefined: it was deleted. */
  onRecord(record: StoredRecord): void;
  /** All records there were at the start have been given to `onRecord`. */
  onReady(): void;
}

export interface Following {
  /** Resolves when `onReady` was called for the first time; rejects when that cannot be. */
  ready: Promise<void>;
  /** Resolves after the signal. */
  ended: Promise<void>;
}

const watchRetryMs = 500;

export class RecordStore {
  readonly #kv: KV;

  private constructor(kv: KV) {
    this.#kv = kv;
  }

  /** Makes the bucket when it is missing. @throws HatchError `host.nats_unavailable` */
  static async open(connection: NatsConnection, bucketName: string): Promise<RecordStore> {
    return doing(`open bucket "${bucketName}"`, async () => {
      const kv = await new Kvm(connection).create(bucketName, { history: 1 });
      return new RecordStore(kv);
    });
  }

  async get(key: string): Promise<StoredRecord | undefined> {
    return doing(`read record "${key}"`, async () => {
      const entry = await this.#kv.get(key);
      return entry === null || entry.operation !== 'PUT' ? undefined : recordOf(entry);
    });
  }

  /**
   * Writes a record that nobody has changed since `expectedRevision`; 0 means there must be none.
   * Gives the new revision.
   * @throws HatchError `deploy.conflict` when somebody has
   */
  async put(key: string, json: string, expectedRevision: number): Promise<number> {
    return doing(`write record "${key}"`, () =>
      expectedRevision === 0
        ? this.#kv.create(key, json)
        : this.#kv.update(key, json, expectedRevision),
    );
  }

  /** @throws HatchError `deploy.conflict` when it has changed since `expectedRevision` */
  async delete(key: string, expectedRevision?: number): Promise<void> {
    await doing(`delete record "${key}"`, () =>
      this.#kv.delete(key, expectedRevision === undefined ? {} : { previousSeq: expectedRevision }),
    );
  }

  /** All records whose keys match a pattern such as `version.*.*`. */
  async readAll(pattern: string): Promise<StoredRecord[]> {
    return doing(`read records "${pattern}"`, async () => {
      const records: StoredRecord[] = [];
      for await (const entry of await this.#kv.history({ key: pattern })) {
        if (entry.operation === 'PUT') records.push(recordOf(entry));
      }
      return records;
    });
  }

  /**
   * Follows the bucket until `signal` aborts; when a watch breaks, by another one. Only the first
   * failure to start is the caller's, later ones go to `onError`.
   */
  follow(
    watcher: RecordWatcher,
    { signal, onError }: { signal: AbortSignal; onError: (error: HatchError) => void },
  ): Following {
    const ready = Promise.withResolvers<void>();
    let isReady = false;
    const told: RecordWatcher = {
      onBegin: () => watcher.onBegin(),
      onRecord: (record) => {
        try {
          watcher.onRecord(record);
        } catch (error) {
          onError(toHatchError(error));
        }
      },
      onReady: () => {
        watcher.onReady();
        isReady = true;
        ready.resolve();
      },
    };
    const run = async (): Promise<void> => {
      while (!signal.aborted) {
        try {
          told.onBegin();
          await this.#watch(told, signal);
        } catch (error) {
          const failure = toHatchError(error, 'host.nats_unavailable');
          if (!isReady) return ready.reject(failure);
          onError(failure);
        }
        await sleep(watchRetryMs, undefined, { signal }).catch(() => undefined);
      }
      ready.resolve();
    };
    return { ready: ready.promise, ended: run() };
  }

  /** A watch survives a reconnect: the client resumes it where it was. */
  async #watch(watcher: RecordWatcher, signal: AbortSignal): Promise<void> {
    // What is in the bucket now; the watch delivers at least that.
    const { state } = (await this.#kv.status()).streamInfo;
    let ready = state.messages === 0;
    const entries = await this.#kv.watch();
    const stop = () => entries.stop();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    if (ready) watcher.onReady();
    for await (const entry of entries) {
      watcher.onRecord(recordOf(entry));
      if (ready || entry.revision < state.last_seq) continue;
      ready = true;
      watcher.onReady();
    }
    signal.removeEventListener('abort', stop);
  }
}

function recordOf(entry: KvEntry): StoredRecord {
  const { key, revision } = entry;
  return { key, revision, json: entry.operation === 'PUT' ? entry.json<unknown>() : undefined };
}

async function doing<Result>(what: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    const isConflict =
      error instanceof JetStreamApiError &&
      error.code === JetStreamApiCodes.StreamWrongLastSequence;
    throw isConflict
      ? new HatchError(
          'deploy.conflict',
          `Cannot ${what}: somebody else has just changed it; look at it and try again`,
          { cause: error },
        )
      : (natsRefusal(error) ??
          new HatchError('host.nats_unavailable', `Cannot ${what}: ${messageOf(error)}`, {
            cause: error,
          }));
  }
}
