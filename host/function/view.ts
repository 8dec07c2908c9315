/** The deployed functions as this host knows them: in memory, for the hot path. */
import { decodePointer, decodeVersion, keys, latestQualifier } from './record.ts';
import type { FunctionState, FunctionVersion } from './record.ts';
import type { StoredRecord } from './record-store.ts';
import { functionNotFound, versionNotFound } from './state.ts';

export interface FunctionChange {
  name: string;
  /** Undefined when the function was removed. */
  state: FunctionState | undefined;
  /** Undefined when the function is new to this host. */
  previous: FunctionState | undefined;
}

export class FunctionView {
  readonly #onChange: (change: FunctionChange) => void;
  readonly #functions = new Map<string, FunctionState>();
  /** By key, of all versions, also of those that no call may reach yet. */
  readonly #versions = new Map<string, FunctionVersion>();
  /** Of what was applied last, by key: our own writes come again through the watch. */
  #revisions = new Map<string, number>();

  constructor(onChange: (change: FunctionChange) => void) {
    this.#onChange = onChange;
  }

  get(name: string): FunctionState | undefined {
    return this.#functions.get(name);
  }

  /** @throws HatchError `function.not_found`, `version.not_found` */
  resolve(name: string, qualifier: string = latestQualifier): FunctionVersion {
    const state = this.#functions.get(name);
    if (state === undefined) throw functionNotFound(name);
    const number = versionOf(state, qualifier);
    const version =
      number === undefined ? undefined : this.#versions.get(keys.version(name, number));
    if (version === undefined) throw versionNotFound(name, qualifier);
    return version;
  }

  /** A watch starts from nothing: what it has not delivered by `endSync` is gone. */
  beginSync(): void {
    this.#revisions = new Map();
  }

  endSync(): void {
    for (const name of this.#functions.keys()) {
      if (!this.#revisions.has(keys.pointer(name))) this.#setState(name, undefined);
    }
    for (const key of this.#versions.keys()) {
      if (!this.#revisions.has(key)) this.#versions.delete(key);
    }
  }

  /** @throws HatchError `internal.bug` for a record that can't be read; the view stays as it is */
  apply(record: StoredRecord): void {
    const { key, json, revision } = record;
    if (revision <= (this.#revisions.get(key) ?? 0)) return;
    const [kind, name = ''] = key.split('.');
    if (kind === 'version') {
      if (json === undefined) this.#versions.delete(key);
      else this.#versions.set(key, decodeVersion(key, json));
    }
    if (kind === 'pointer') {
      this.#setState(name, json === undefined ? undefined : decodePointer(key, json, revision));
    }
    this.#revisions.set(key, revision);
  }

  #setState(name: string, state: FunctionState | undefined): void {
    const previous = this.#functions.get(name);
    if (state === undefined) this.#functions.delete(name);
    else this.#functions.set(name, state);
    const isNews = state?.revision !== previous?.revision;
    if (isNews) this.#onChange({ name, state, previous });
  }
}

/** Own keys only: an alias called `constructor` is none. */
function versionOf(state: FunctionState, qualifier: string): string | undefined {
  if (qualifier === latestQualifier) return state.latest;
  if (Object.hasOwn(state.aliases, qualifier)) return state.aliases[qualifier];
  return state.versions.includes(qualifier) ? qualifier : undefined;
}
