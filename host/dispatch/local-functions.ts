/**
 * The functions that this host can run now: their layers are on its disk, leased, and calls find
 * them without waiting.
 *
 * A new latest version is made ready before calls move to it, when the host has instances of the
 * old one. If that fails here, the old one goes on and the new one is tried again.
 *
 * Where there is no room for the layers of all functions, those rest that have no instance and were
 * called least recently: their layers may be evicted, and the next call loads them again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import type { FunctionState, FunctionVersion } from '../function/record.ts';
import { secretIdOf } from '../function/secret-box.ts';
import type { FunctionChange } from '../function/view.ts';
import type { LayerStore } from '../image/layer-store.ts';
import type { DispatchLog } from './dispatcher.ts';
import type { InstancePool } from './instance-pool.ts';
import type { FunctionSecrets, PoolFunction } from '../pool/pool-function.ts';
import type { AttachedVolume } from '../sandbox/own-mounts.ts';

/** Layer directories of one version, kept on disk until released. */
export interface FunctionLayers {
  /** Bottom first. */
  directories: string[];
  /** Variables that its image sets. */
  env: Record<string, string>;
  startReads?: PoolFunction['startReads'];
  release(): void;
}

export interface LocalFunctionsOptions {
  /** From memory; throws `function.not_found`, `version.not_found`. */
  resolve: (name: string, versionOrAlias?: string) => FunctionVersion;
  loadLayers: (version: FunctionVersion) => Promise<FunctionLayers>;
  /** The value of a secret now; throws `secret.not_found`. */
  readSecret: FunctionSecrets['read'];
  pool: Pick<InstancePool, 'prepare' | 'retire' | 'stats'>;
  /** Where the layers are. */
  store: Pick<LayerStore, 'usage'>;
  log: DispatchLog;
  /** A version is there: what its instances will need may be made ready. */
  onLoaded?: (fn: PoolFunction) => void;
  /** How long after a call a version may not rest yet. */
  restAfterMs?: number;
  /** Pause after the first failure; doubles up to half a minute. */
  retryMs?: number;
}

const MiB = 2 ** 20;
const retryMsDefault = 1000;
const retryMsMax = 30_000;
/** Who was just told of one has neither an instance of it nor a place in its queue yet. */
const restAfterMsDefault = 1000;
const makeRoomMsMax = 10_000;
const oldGoesOn = 'Cannot make a new version ready: the old one goes on';
const noneHere = 'Cannot load the first version here: calls of it fail until a later try';

interface Loaded {
  fn: PoolFunction;
  layers: FunctionLayers;
  /** When it was loaded or last asked for, on the clock of `performance`. */
  usedAtMs: number;
}

export class LocalFunctions {
  readonly #options: LocalFunctionsOptions;
  /** By name, then version. */
  readonly #loaded = new Map<string, Map<string, Loaded>>();
  readonly #loading = new Map<string, Promise<Loaded>>();
  /** What calls without a version reach. */
  readonly #current = new Map<string, Loaded>();
  /** The change of each function that is under way; a newer one aborts it. */
  readonly #changes = new Map<string, { abort: AbortController; done: Promise<void> }>();

  constructor(options: LocalFunctionsOptions) {
    this.#options = options;
  }

  /** Functions of which this host has a version loaded. */
  get count(): number {
    return this.#loaded.size;
  }

  /**
   * At once when the version is loaded, else when it is.
   * @throws HatchError `function.not_found`, `version.not_found`; what loading layers rejects with
   */
  resolve(name: string, versionOrAlias?: string): PoolFunction | Promise<PoolFunction> {
    if (versionOrAlias === undefined) {
      const current = this.#current.get(name);
      if (current !== undefined) {
        current.usedAtMs = performance.now();
        return current.fn;
      }
    }
    const version = this.#options.resolve(name, versionOrAlias);
    const loaded = this.#loaded.get(name)?.get(version.version);
    if (loaded === undefined) return this.load(version);
    loaded.usedAtMs = performance.now();
    if (versionOrAlias === undefined) this.#current.set(name, loaded);
    return loaded.fn;
  }

  /**
   * Fetches, verifies and unpacks what a version needs; once, however often it is asked for. Others
   * rest where there is no room for it.
   */
  async load(version: FunctionVersion): Promise<PoolFunction> {
    for (;;) {
      try {
        return await this.#loadOnce(version);
      } catch (error) {
        if (!(isCacheFull(error) && (await this.#makeRoom(error)))) throw error;
      }
    }
  }

  /** Ends the instances of a version, then lets go of its layers. */
  async unload(name: string, version: string): Promise<void> {
    const versions = this.#loaded.get(name);
    const loaded = versions?.get(version);
    if (versions === undefined || loaded === undefined) return;
    versions.delete(version);
    if (versions.size === 0) this.#loaded.delete(name);
    if (this.#current.get(name) === loaded) this.#current.delete(name);
    await this.#options.pool.retire({ name, version });
    loaded.layers.release();
  }

  /** For `FunctionRegistry.watch`: follows a function to its new state. */
  readonly onChange = (change: FunctionChange): void => {
    const { name, state } = change;
    const before = this.#changes.get(name);
    before?.abort.abort();
    const abort = new AbortController();
    const done = this.#follow({ name, state, after: before?.done, signal: abort.signal });
    this.#changes.set(name, { abort, done });
  };

  /** Instances that have the old value end with their calls; the next ones get the new value. */
  readonly onSecretChange = (id: string): void => {
    const loaded = [...this.#loaded.values()].flatMap((versions) => [...versions.values()]);
    for (const { fn } of loaded) {
      const { tenant } = fn;
      const uses = fn.secrets?.uses ?? [];
      if (!uses.some(({ name }) => secretIdOf({ tenant, name }) === id)) continue;
      void this.#options.pool.retire({ name: fn.name, version: fn.version });
    }
  };

  /** Stops following and waits for what is under way; layers stay leased until the host ends. */
  async close(): Promise<void> {
    const changes = [...this.#changes.values()];
    for (const { abort } of changes) abort.abort();
    await Promise.all(changes.map(({ done }) => done));
  }

  async #loadOnce(version: FunctionVersion): Promise<PoolFunction> {
    const known = this.#loaded.get(version.name)?.get(version.version);
    if (known !== undefined) return known.fn;
    const key = `${version.name}@${version.version}`;
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = this.#load(version).finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return (await loading).fn;
  }

  async #load(version: FunctionVersion): Promise<Loaded> {
    const layers = await this.#options.loadLayers(version);
    const { readSecret } = this.#options;
    const { startReads } = layers;
    const fn = { ...poolFunctionOf(version, layers, readSecret), startReads };
    const loaded = { fn, layers, usedAtMs: performance.now() };
    const versions = this.#loaded.get(version.name) ?? new Map<string, Loaded>();
    versions.set(version.version, loaded);
    this.#loaded.set(version.name, versions);
    this.#options.onLoaded?.(loaded.fn);
    return loaded;
  }

  async #follow(change: {
    name: string;
    state: FunctionState | undefined;
    after: Promise<void> | undefined;
    signal: AbortSignal;
  }): Promise<void> {
    const { name, state, signal } = change;
    await change.after;
    for (let waitMs = this.#options.retryMs ?? retryMsDefault; !signal.aborted; waitMs *= 2) {
      try {
        if (state !== undefined) await this.#switchTo(state);
        await this.#unloadExcept(name, state);
        return;
      } catch (error) {
        const facts = { function: name, version: state?.latest, error: messageOf(error) };
        this.#options.log.warn(facts, this.#current.has(name) ? oldGoesOn : noneHere);
      }
      await sleep(Math.min(waitMs, retryMsMax), undefined, { signal }).catch(() => undefined);
    }
  }

  async #switchTo({ name, latest }: FunctionState): Promise<void> {
    if (this.#current.get(name)?.fn.version === latest) return;
    const { pool, resolve, log } = this.#options;
    const version = resolve(name, latest);
    const instances = pool.stats().instances.filter((one) => one.functionName === name);
    try {
      // What nobody calls now is no reason for others to rest.
      const fn = await (instances.length > 0 ? this.load(version) : this.#loadOnce(version));
      const isReady = instances.some((one) => one.functionVersion === latest);
      if (instances.length > 0 && !isReady) await pool.prepare(fn);
    } catch (error) {
      if (instances.length > 0 || !isCacheFull(error)) throw error;
      log.warn({ function: name, version: latest }, 'No room for its layers until its first call');
      this.#current.delete(name);
      return;
    }
    const loaded = this.#loaded.get(name)?.get(latest);
    if (loaded !== undefined) this.#current.set(name, loaded);
  }

  /** Lets one version rest at least, and more until there is room; false when none can. */
  async #makeRoom({ details }: HatchError): Promise<boolean> {
    const { store, log, restAfterMs = restAfterMsDefault } = this.#options;
    // What was too large while it was unpacked may be any larger.
    const wantedBytes = Number(details['sizeBytes'] ?? 2 * Number(details['roomBytes']));
    const untilMs = performance.now() + makeRoomMsMax;
    for (;;) {
      const next = this.#nextToRest();
      if (next === undefined || performance.now() > untilMs) return false;
      const waitMs = next.usedAtMs + restAfterMs - performance.now();
      if (waitMs > 0) {
        await sleep(waitMs);
        continue;
      }
      const { name, version } = next.fn;
      log.warn({ function: name, version }, 'Its layers may be evicted until its next call');
      await this.unload(name, version);
      const { heldBytes, capacityBytes } = store.usage;
      if (capacityBytes - heldBytes >= wantedBytes) return true;
    }
  }

  /** Of the versions without instances, the one that was not called for longest. */
  #nextToRest(): Loaded | undefined {
    const { instances } = this.#options.pool.stats();
    const hasInstance = ({ fn }: Loaded): boolean =>
      instances.some((one) => one.functionName === fn.name && one.functionVersion === fn.version);
    const loaded = [...this.#loaded.values()].flatMap((versions) => [...versions.values()]);
    const idle = loaded.filter((one) => !hasInstance(one));
    return idle.toSorted((a, b) => a.usedAtMs - b.usedAtMs)[0];
  }

  /** Versions with an alias stay; any other is loaded again when somebody calls it by number. */
  async #unloadExcept(name: string, state: FunctionState | undefined): Promise<void> {
    const wanted = state === undefined ? [] : [state.latest, ...Object.values(state.aliases)];
    const versions = [...(this.#loaded.get(name)?.keys() ?? [])];
    // A version above all others is being deployed.
    const newest = Math.max(...(state?.versions ?? ['Infinity']).map(Number));
    const isDeploying = (version: string) => Number(version) > newest;
    const unwanted = versions.filter((one) => !wanted.includes(one) && !isDeploying(one));
    await Promise.all(unwanted.map((version) => this.unload(name, version)));
  }
}

/** By what is held, and not by the disk: then it would not help that versions rest. */
function isCacheFull(error: unknown): error is HatchError {
  return (
    error instanceof HatchError && error.code === 'image.cache_full' && 'heldBytes' in error.details
  );
}

/** What the pool has to know of a version whose layers are on this disk. */
export function poolFunctionOf(
  version: FunctionVersion,
  layers: Pick<FunctionLayers, 'directories' | 'env'>,
  readSecret: FunctionSecrets['read'],
): PoolFunction {
  const { manifest } = version;
  const { secrets: uses, tenant } = manifest;
  const read = (name: string): Buffer => readSecret(secretIdOf({ tenant, name }));
  return {
    name: version.name,
    version: version.version,
    entry: version.entryPath,
    layerDirectories: layers.directories,
    storage: manifest.storage,
    memoryMb: manifest.memoryMb,
    memoryHighMb: manifest.memoryHighMb,
    cpu: manifest.cpu,
    cpuBurst: manifest.cpuBurst,
    cpuWeight: manifest.cpuWeight,
    pidsMax: manifest.pidsMax,
    io: manifest.io,
    timeoutMs: manifest.timeoutMs,
    graceMs: manifest.graceMs,
    concurrency: manifest.concurrency,
    instancesMax: manifest.instancesMax,
    keepAlive: keepAlivePolicyOf(manifest),
    freezeIdleAfterMs: manifest.freezeIdleAfterMs,
    seccomp: manifest.seccomp,
    parked: manifest.parked,
    reuse: manifest.reuse,
    tenant: manifest.tenant,
    isolation: manifest.isolation,
    egress: manifest.network === 'none' ? [] : manifest.network.egress,
    env: { ...layers.env, ...manifest.env },
    ...(uses.length === 0 ? {} : { secrets: { uses, read } }),
    ...(manifest.volumes.length === 0 ? {} : { volumes: volumesOf(version) }),
  };
}

/** What a version has of its function's volumes. */
export function volumesOf({ name: functionName, manifest }: FunctionVersion): AttachedVolume[] {
  const { tenant, volumes } = manifest;
  return volumes.map(({ name, path, sizeMb }) => {
    return { tenant, functionName, name, path, sizeBytes: sizeMb * MiB };
  });
}

function keepAlivePolicyOf({ keepAlive }: FunctionVersion['manifest']): PoolFunction['keepAlive'] {
  if (keepAlive.policy === 'adaptive') return keepAlive;
  return { policy: 'fixed', keepMs: keepAlive.minutes * 60_000 };
}
