/**
 * The functions that are deployed, for all hosts of a NATS system: records in KV, layers in the
 * object store. A deploy goes
 *
 *     putLayer -> publish -> (the caller makes an instance ready) -> activate
 *                                                             \-> discard, when it does not start
 *
 * and only `activate` changes what callers reach: it moves the function's pointer, and fails when
 * somebody else moved it since the deploy began. Version records never change.
 */
import { Readable } from 'node:stream';
import type { NatsConnection } from '@nats-io/nats-core';
import { HatchError, toHatchError } from '../base/errors.ts';
import type { Digest } from '../image/digest.ts';
import type { LayerBlob } from '../image/layer-tar.ts';
import type { BundleStore } from './bundle-store.ts';
import { collectUnused } from './collect-unused.ts';
import type { Collected, CollectOptions } from './collect-unused.ts';
import { LayerObjects } from './layer-objects.ts';
import { parseManifest } from './manifest.ts';
import type { FunctionManifest } from './manifest.ts';
import { refuseForeign } from './owner.ts';
import type { Owned } from './owner.ts';
import { decodePointer, decodeVersion, encodePointer, keys } from './record.ts';
import type { FunctionImages, FunctionState, FunctionVersion } from './record.ts';
import { RecordStore } from './record-store.ts';
import type { Following, StoredRecord } from './record-store.ts';
import {
  functionNotFound,
  versionBefore,
  versionNotFound,
  withAlias,
  withLatest,
} from './state.ts';
import { FunctionView } from './view.ts';
import type { FunctionChange } from './view.ts';

export interface WatchHandlers {
  /** A function came, changed or went. Those there are come before `watch` resolves. */
  onChange?: (change: FunctionChange) => void;
  /** The watch broke and is being set up again, or a record can't be read. */
  onError?: (error: HatchError) => void;
  /** How often it is looked for what nothing refers to; every 10 min. by default. */
  collect?: { everyMs?: number } & CollectOptions;
}

export interface BundleOptions {
  /** Of a registry, where the layers of new versions are kept; undefined: the object store. */
  repository: string | undefined;
  /** For these, and for those that older versions are in. */
  openRepository: (name: string) => BundleStore;
}

const withoutRepositories: BundleOptions = {
  repository: undefined,
  openRepository: (name) => {
    throw new HatchError('image.not_found', `Cannot read layers in "${name}": ask a host`);
  },
};
const collectEveryMs = 10 * 60_000;
const attemptsMax = 10;
const bucketName = 'hatch_functions';

export class FunctionRegistry {
  readonly #records: RecordStore;
  /** What deploys upload. */
  readonly #uploads: LayerObjects;
  /** Where layers are kept, by repository; undefined is the object store. */
  readonly #bundles = new Map<string | undefined, BundleStore>();
  readonly #openRepository: (name: string) => BundleStore;
  /** For the versions to come. */
  readonly #repository: string | undefined;
  readonly #closing = new AbortController();
  #onError: (error: HatchError) => void = () => undefined;
  #view: FunctionView | undefined;
  #following: Following | undefined;
  #collecting: NodeJS.Timeout | undefined;

  private constructor(records: RecordStore, uploads: LayerObjects, options: BundleOptions) {
    this.#records = records;
    this.#uploads = uploads;
    this.#bundles.set(undefined, uploads);
    this.#repository = options.repository;
    this.#openRepository = options.openRepository;
  }

  /**
   * Opens the bucket and the object store, and makes them when they are missing.
   * @throws HatchError `host.nats_unavailable`
   */
  static async open(
    connection: NatsConnection,
    options: BundleOptions = withoutRepositories,
  ): Promise<FunctionRegistry> {
    const records = await RecordStore.open(connection, bucketName);
    return new FunctionRegistry(records, await LayerObjects.open(connection), options);
  }

  /**
   * Starts to follow all changes; resolves when `get` and `resolve` know what is deployed now.
   * @throws HatchError `host.nats_unavailable`
   */
  async watch({ onChange, onError, collect = {} }: WatchHandlers = {}): Promise<void> {
    if (this.#view !== undefined) throw new HatchError('internal.bug', 'Cannot watch twice');
    const view = new FunctionView(onChange ?? (() => undefined));
    this.#view = view;
    this.#onError = onError ?? this.#onError;
    const watcher = {
      onBegin: () => view.beginSync(),
      onRecord: (record: StoredRecord) => view.apply(record),
      onReady: () => view.endSync(),
    };
    this.#following = this.#records.follow(watcher, {
      signal: this.#closing.signal,
      onError: this.#onError,
    });
    await this.#following.ready.catch((error: unknown) => {
      this.#view = undefined;
      throw error;
    });
    const { everyMs = collectEveryMs, ...graces } = collect;
    const run = (): void =>
      void this.collect(graces).catch((error: unknown) => this.#onError(toHatchError(error)));
    this.#collecting = setInterval(run, everyMs).unref();
  }

  /** Ends the watch. The connection is the caller's. */
  async close(): Promise<void> {
    this.#closing.abort();
    clearInterval(this.#collecting);
    await this.#following?.ended;
  }

  /** From memory; needs `watch`. */
  get(name: string): FunctionState | undefined {
    return this.#watched().get(name);
  }

  /**
   * The version that a call reaches; from memory; needs `watch`.
   * @throws HatchError `function.not_found`, `version.not_found`
   */
  resolve(name: string, qualifier?: string): FunctionVersion {
    return this.#watched().resolve(name, qualifier);
  }

  /**
   * From the server: `revision` is what `activate` wants, and 0 for a function that is new. The
   * owner holds for that revision: who changes it changes what was looked at, or nothing.
   * @throws HatchError `request.forbidden`
   */
  async read(name: string, { owner }: Owned = {}): Promise<FunctionState | undefined> {
    const key = keys.pointer(name);
    const record = await this.#records.get(key);
    if (record === undefined) return undefined;
    const state = decodePointer(key, record.json, record.revision);
    if (owner !== undefined) refuseForeign(name, await this.#versionsOf(state), owner);
    return state;
  }

  /** All functions, from the server, by name. */
  async list(): Promise<FunctionState[]> {
    const records = await this.#records.readAll(keys.allPointers);
    return records
      .map(({ key, json, revision }) => decodePointer(key, json, revision))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * The versions of a function that can be called, from the server, oldest first.
   * @throws HatchError `function.not_found`, `request.forbidden`
   */
  async versions(name: string, owned: Owned = {}): Promise<FunctionVersion[]> {
    return this.#versionsOf(await this.#require(name, owned));
  }

  /** Uploads a compressed layer. @throws HatchError `deploy.invalid` when the digest differs */
  async putLayer(bytes: Uint8Array | Readable, digest: Digest): Promise<void> {
    const source = bytes instanceof Readable ? bytes : Readable.from([bytes]);
    await this.#uploads.put({ digest }, () => Promise.resolve(source));
    source.destroy();
  }

  /** The compressed layer; the reader verifies it. @throws HatchError `image.not_found` */
  async getLayer(digest: Digest, repository?: string): Promise<Readable> {
    return this.#bundlesIn(repository).get(digest);
  }

  /**
   * Writes the next version of a function. No call reaches it until it is activated.
   * @throws HatchError `deploy.invalid` for a bad manifest or when the layer was not put before
   */
  async publish(deploy: {
    manifest: FunctionManifest;
    entryPath: string;
    layer: LayerBlob;
    images?: FunctionImages;
  }): Promise<FunctionVersion> {
    const manifest = parseManifest(deploy.manifest);
    const { name } = manifest;
    if (!(await this.#uploads.has(deploy.layer.digest))) {
      throw new HatchError(
        'deploy.invalid',
        `Cannot publish "${name}": put layer "${deploy.layer.digest}" first`,
      );
    }
    const { entryPath, layer, images = { layers: [] } } = deploy;
    if (this.#repository !== undefined)
      await this.#bundlesIn(this.#repository).put(layer, () => this.#uploads.get(layer.digest));
    const version = await this.#reserveVersion(name);
    const repository = this.#repository;
    const facts = { name, version, manifest, entryPath, layer, images, createdAtMs: Date.now() };
    const record: FunctionVersion = repository === undefined ? facts : { ...facts, repository };
    const key = keys.version(name, version);
    const checked = decodeVersion(key, JSON.parse(JSON.stringify(record)));
    const revision = await this.#records.put(key, JSON.stringify(checked), 0);
    this.#view?.apply({ key, json: checked, revision });
    return checked;
  }

  /**
   * Makes a published version the one that callers reach.
   * @param expectedRevision `revision` of the state the deploy began with; 0 for a new function
   * @throws HatchError `deploy.conflict` when the function has changed since; `version.not_found`
   */
  async activate(name: string, version: string, expectedRevision: number): Promise<FunctionState> {
    if ((await this.#records.get(keys.version(name, version))) === undefined) {
      throw versionNotFound(name, version);
    }
    const current = await this.read(name);
    if ((current?.revision ?? 0) !== expectedRevision) throw changedMeanwhile(name, version);
    const { state, dropped } = withLatest(current, { name, version, atMs: Date.now() });
    const next = await this.#putState(state).catch((error: unknown) => {
      throw isConflict(error) ? changedMeanwhile(name, version, error) : error;
    });
    for (const old of dropped) await this.#records.delete(keys.version(name, old));
    if (dropped.length > 0) await this.collect();
    return next;
  }

  /**
   * Removes a published version that is not to be activated.
   * @throws HatchError `deploy.conflict` when it is active already
   */
  async discard(name: string, version: string): Promise<void> {
    if ((await this.read(name))?.versions.includes(version) === true) {
      throw new HatchError(
        'deploy.conflict',
        `Cannot discard version ${version} of "${name}": it has been activated`,
      );
    }
    await this.#records.delete(keys.version(name, version));
    await this.collect();
  }

  /**
   * Makes an older version the latest: the one before, or `toVersion` (a version or an alias).
   * @throws HatchError `function.not_found`, `version.not_found`, `deploy.conflict`,
   *   `request.forbidden`
   */
  async rollback(name: string, toVersion?: string, owned: Owned = {}): Promise<FunctionState> {
    const state = await this.#require(name, owned);
    const target = toVersion ?? versionBefore(state);
    const version = Object.hasOwn(state.aliases, target) ? state.aliases[target] : target;
    if (version === undefined || !state.versions.includes(version)) {
      throw versionNotFound(name, target);
    }
    if (version === state.latest) return state;
    return this.activate(name, version, state.revision);
  }

  /**
   * Points `alias` at `version`; removes the alias when `version` is undefined.
   * @throws HatchError `request.invalid`, `function.not_found`, `version.not_found`,
   *   `request.forbidden`
   */
  async setAlias(
    name: string,
    { alias, version, ...owned }: { alias: string; version: string | undefined } & Owned,
  ): Promise<FunctionState> {
    return retryConflicts(async () =>
      this.#putState(withAlias(await this.#require(name, owned), alias, version)),
    );
  }

  /**
   * Removes a function and its versions; one that is being deployed meanwhile is somebody else's.
   * @throws HatchError `function.not_found`, `deploy.conflict`, `request.forbidden`
   */
  async remove(name: string, owned: Owned = {}): Promise<void> {
    const { revision, versions } = await this.#require(name, owned);
    await this.#records.delete(keys.pointer(name), revision);
    for (const version of versions) await this.#records.delete(keys.version(name, version));
    await this.collect();
  }

  /**
   * Removes what nothing refers to: versions of deploys that were never finished, and layers of
   * no version. What is younger than the grace may belong to a deploy that is under way. It runs
   * whenever versions go, and now and then.
   */
  async collect(options: CollectOptions = {}): Promise<Collected> {
    return collectUnused(
      {
        records: this.#records,
        listStates: () => this.list(),
        repositories: new Set([undefined, this.#repository]),
        bundlesIn: (repository) => this.#bundlesIn(repository),
        onError: this.#onError,
      },
      options,
    );
  }

  #bundlesIn(repository: string | undefined): BundleStore {
    const known = this.#bundles.get(repository);
    if (known !== undefined || repository === undefined) return known ?? this.#uploads;
    const bundles = this.#openRepository(repository);
    this.#bundles.set(repository, bundles);
    return bundles;
  }

  /** A counter of its own, so that a number is not given again after a discard or a removal. */
  async #reserveVersion(name: string): Promise<string> {
    return retryConflicts(async () => {
      const key = keys.counter(name);
      const record = await this.#records.get(key);
      const next = Number(record?.json ?? 0) + 1;
      await this.#records.put(key, String(next), record?.revision ?? 0);
      return String(next);
    });
  }

  async #putState(state: FunctionState): Promise<FunctionState> {
    const key = keys.pointer(state.name);
    const json = encodePointer(state);
    const revision = await this.#records.put(key, json, state.revision);
    this.#view?.apply({ key, json: JSON.parse(json), revision });
    return { ...state, revision };
  }

  async #versionsOf({ name, versions }: FunctionState): Promise<FunctionVersion[]> {
    const records = await this.#records.readAll(keys.versionsOf(name));
    return records
      .map(({ key, json }) => decodeVersion(key, json))
      .filter(({ version }) => versions.includes(version))
      .sort((a, b) => Number(a.version) - Number(b.version));
  }

  async #require(name: string, owned: Owned): Promise<FunctionState> {
    const state = await this.read(name, owned);
    if (state === undefined) throw functionNotFound(name);
    return state;
  }

  #watched(): FunctionView {
    if (this.#view !== undefined) return this.#view;
    throw new HatchError('internal.bug', 'Cannot look up a function before watch()');
  }
}

function changedMeanwhile(name: string, version: string, cause?: unknown): HatchError {
  return new HatchError(
    'deploy.conflict',
    `Cannot activate version ${version} of "${name}": somebody else has changed the function ` +
      'meanwhile; deploy again',
    { cause },
  );
}

function isConflict(error: unknown): boolean {
  return error instanceof HatchError && error.code === 'deploy.conflict';
}

async function retryConflicts<Result>(action: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await action();
    } catch (error) {
      if (!isConflict(error) || attempt >= attemptsMax) throw error;
    }
  }
}
