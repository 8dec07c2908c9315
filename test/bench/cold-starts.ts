/** Starts of a function whose layers the kernel has in memory, or has not. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../host/engine.ts';
import { filesIn, openFile } from '../../host/image/read-ahead.ts';
import { StartReads } from '../../host/image/start-reads.ts';
import type { Acquired } from '../../host/pool/function-pool.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';
import { dropCached } from '../../host/sys/page-cache.ts';

/** `listed`: cold, and what a start reads is read ahead of it; of `warm-listed`, for nothing. */
export type CacheState = 'warm' | 'warm-listed' | 'cold' | 'listed';

export interface ColdFunction {
  functions: Record<CacheState, PoolFunction>;
  /** Of all its layers. */
  files: string[];
  /** What a start of it reads. */
  listedBytes: number;
}

/** Starts it once, to have the list of what that reads. */
export async function coldFunction(
  { images: { store }, baseImage }: Pick<Engine, 'images' | 'baseImage'>,
  fn: PoolFunction,
  { stateDirectory, acquire }: { stateDirectory: string; acquire: Acquire },
): Promise<ColdFunction> {
  const stored = store.layers();
  const layers = fn.layerDirectories.flatMap(
    (name) => stored.find(({ directoryName }) => directoryName === name) ?? [],
  );
  const files: string[] = [];
  for (const { path } of layers) for await (const file of filesIn(path)) files.push(file);
  const directory = join(stateDirectory, 'bench-reads');
  const reads = await StartReads.open({ directory, warmMs: 0, settleMs: 1 });
  const runtime = baseImage.layers.map(({ chainId }) => chainId);
  const followed = layers.map((one) => ({ ...one, ofRuntime: runtime.includes(one.chainId) }));
  const listed = { ...fn, name: `${fn.name}-listed`, startReads: await reads.follow(followed) };
  const { instance } = await acquire(listed);
  let listedBytes = 0;
  while ((listedBytes = listed.startReads.begin()) === 0) await sleep(5);
  await instance.sandbox.destroy();
  const plain = { ...fn, startReads: undefined };
  return {
    functions: { warm: plain, cold: plain, listed, 'warm-listed': listed },
    files,
    listedBytes,
  };
}

type Acquire = (fn: PoolFunction) => Promise<Acquired>;

/** What no process has mapped goes; directories and inodes stay, which are the whole machine's. */
export async function dropFiles(files: readonly string[]): Promise<void> {
  for (const path of files) {
    await using file = await openFile(path);
    dropCached(file.fd);
  }
}
