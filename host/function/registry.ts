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
import { LayerObjects } from './layer-objects.ts';
import { parseManifest } from './manifest.ts';
import type { FunctionManifest } from './manifest.ts';
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
}

export interface BundleOptions {
  /** Of a registry, where the layers of new versions are kept; undefined: the object store. */
  repository: string | undefined;
  /** For these, and for those that older versions are in. */
  openRepository: (name: string) => BundleStore;
}

/** How long a layer or an unfinished deploy is left alone by `collect`. */
export interface CollectOptions {
  layerGraceMs?: number;
  unfinishedGraceMs?: number;
}

const withoutRepositories: BundleOptions = {
  repository: undefined,
  openRepository: (name) => {
    throw new HatchError('image.not_found', `Cannot read layers in "${name}": ask a host`);
  },
};
const layerGraceMs = 10 * 60_000;
const unfinishedGraceMs = 60 * 60_000;
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
  async watch({ onChange, onError }: WatchHandlers = {}): Promise<void> {
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
  }

  /** Ends the watch. The connection is the caller's. */
  async close(): Promise<void> {
    this.#closing.abort();
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

  /** From the server: `revision` is what `activate` wants, and 0 for a function that is new. */
  async read(name: string): Promise<FunctionState | undefined> {
    const key = keys.pointer(name);
    const record = await this.#records.get(key);
    return record === undefined ? undefined : decodePointer(key, record.json, record.revision);
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
   * @throws HatchError `function.not_found`
   */
  async versions(name: string): Promise<FunctionVersion[]> {
    const { versions } = await this.#require(name);
    const records = await this.#records.readAll(keys.versionsOf(name));
    return records
      .map(({ key, json }) => decodeVersion(key, json))
      .filter(({ version }) => versions.includes(version))
      .sort((a, b) => Number(a.version) - Number(b.version));
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
    if ((current?.revision ?? 0) !== expectedRevision) {
      throw new HatchError(
        'deploy.conflict',
        `Cannot activate version ${version} of "${name}": somebody else has changed the ` +
          'function meanwhile; deploy again',
      );
    }
    const { state, dropped } = withLatest(current, { name, version, atMs: Date.now() });
    const next = await this.#putState(state);
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
   * @throws HatchError `function.not_found`, `version.not_found`, `deploy.conflict`
   */
  async rollback(name: string, toVersion?: string): Promise<FunctionState> {
    const state = await this.#require(name);
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
   * @throws HatchError `request.invalid`, `function.not_found`, `version.not_found`
   */
  async setAlias(name: string, alias: string, version: string | undefined): Promise<FunctionState> {
    return retryConflicts(async () =>
      this.#putState(withAlias(await this.#require(name), alias, version)),
    );
  }

  /** Removes a function and its versions. @throws HatchError `function.not_found` */
  async remove(name: string): Promise<void> {
    const { revision } = await this.#require(name);
    const key = keys.pointer(name);
    await this.#records.delete(key, revision);
    for (const version of await this.#records.readAll(keys.versionsOf(name))) {
      await this.#records.delete(version.key);
    }
    await this.collect();
  }

  /**
   * Removes what nothing refers to: versions of deploys that were never finished, and layers of
   * no version. What is younger than the grace may belong to a deploy that is under way. It runs
   * whenever versions go.
   */
  async collect(options: CollectOptions = {}): Promise<{ versions: number; layers: number }> {
    const records = await this.#records.readAll(keys.allVersions);
    const versions = records.map(({ key, json }) => ({ key, ...decodeVersion(key, json) }));
    const states = new Map((await this.list()).map((state) => [state.name, state]));
    const now = Date.now();
    const unfinished = versions.filter(
      ({ name, version, createdAtMs }) =>
        states.get(name)?.versions.includes(version) !== true &&
        now - createdAtMs >= (options.unfinishedGraceMs ?? unfinishedGraceMs),
    );
    for (const { key } of unfinished) await this.#records.delete(key);
    const kept = versions.filter((one) => !unfinished.includes(one));
    const putUntilMs = now - (options.layerGraceMs ?? layerGraceMs);
    let layers = 0;
    for (const repository of new Set([undefined, this.#repository])) {
      const inIt = kept.filter((one) => one.repository === repository);
      const except = new Set<string>(inIt.map(({ layer }) => layer.digest));
      try {
        layers += await collectBundles(this.#bundlesIn(repository), { except, putUntilMs });
      } catch (error) {
        // What was asked for is done; a registry that is down keeps its layers until the next time.
        if (repository === undefined) throw error;
        this.#onError(toHatchError(error));
      }
    }
    return { versions: unfinished.length, layers };
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

  async #require(name: string): Promise<FunctionState> {
    const state = await this.read(name);
    if (state === undefined) throw functionNotFound(name);
    return state;
  }

  #watched(): FunctionView {
    if (this.#view !== undefined) return this.#view;
    throw new HatchError('internal.bug', 'Cannot look up a function before watch()');
  }
}

async function collectBundles(
  bundles: BundleStore,
  { except, putUntilMs }: { except: ReadonlySet<string>; putUntilMs: number },
): Promise<number> {
  const unused = await bundles.list({ except });
  let deleted = 0;
  for (const { digest, usedAtMs } of unused)
    // What somebody has put since the list was made is about to be referred to.
    if (usedAtMs <= putUntilMs && (await bundles.delete(digest, { putUntilMs }))) deleted++;
  return deleted;
}

async function retryConflicts<Result>(action: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await action();
    } catch (error) {
      const isConflict = error instanceof HatchError && error.code === 'deploy.conflict';
      if (!isConflict || attempt >= attemptsMax) throw error;
    }
  }
}
