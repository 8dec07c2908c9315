/** What nothing refers to any more in the records of functions, and in the places for bundles. */
import { toHatchError } from '../base/errors.ts';
import type { HatchError } from '../base/errors.ts';
import type { BundleStore } from './bundle-store.ts';
import { decodeVersion, keys } from './record.ts';
import type { FunctionState } from './record.ts';
import type { RecordStore } from './record-store.ts';

/** How long a layer or an unfinished deploy is left alone. */
export interface CollectOptions {
  layerGraceMs?: number;
  unfinishedGraceMs?: number;
}

/** How many went. */
export interface Collected {
  versions: number;
  layers: number;
}

export interface CollectParts {
  records: Pick<RecordStore, 'readAll' | 'delete'>;
  listStates: () => Promise<FunctionState[]>;
  /** Undefined is the object store. */
  repositories: ReadonlySet<string | undefined>;
  bundlesIn: (repository: string | undefined) => BundleStore;
  onError: (error: HatchError) => void;
}

const layerGraceMsDefault = 10 * 60_000;
const unfinishedGraceMsDefault = 60 * 60_000;

export async function collectUnused(
  { records, listStates, repositories, bundlesIn, onError }: CollectParts,
  {
    layerGraceMs = layerGraceMsDefault,
    unfinishedGraceMs = unfinishedGraceMsDefault,
  }: CollectOptions,
): Promise<Collected> {
  const versions = (await records.readAll(keys.allVersions)).map(({ key, json }) => ({
    key,
    ...decodeVersion(key, json),
  }));
  const states = new Map((await listStates()).map((state) => [state.name, state]));
  const now = Date.now();
  const unfinished = versions.filter(
    ({ name, version, createdAtMs }) =>
      states.get(name)?.versions.includes(version) !== true &&
      now - createdAtMs >= unfinishedGraceMs,
  );
  for (const { key } of unfinished) await records.delete(key);
  const kept = versions.filter((one) => !unfinished.includes(one));
  const putUntilMs = now - layerGraceMs;
  let layers = 0;
  for (const repository of repositories) {
    const inIt = kept.filter((one) => one.repository === repository);
    const except = new Set<string>(inIt.map(({ layer }) => layer.digest));
    try {
      layers += await collectBundles(bundlesIn(repository), { except, putUntilMs });
    } catch (error) {
      // What was asked for is done; a registry that is down keeps its layers until the next time.
      if (repository === undefined) throw error;
      onError(toHatchError(error));
    }
  }
  return { versions: unfinished.length, layers };
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
