/** A container engine without NATS around it: what is measured here is the start of instances. */
import { createReadStream, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../host/config.ts';
import { loadFunctionLayers } from '../../host/dispatch/function-layers.ts';
import { poolFunctionOf } from '../../host/dispatch/local-functions.ts';
import { openEngine, type Engine } from '../../host/engine.ts';
import { channels, type StartPath, type StartRecord } from '../../host/base/channels.ts';
import { bundleFunction } from '../../host/function/bundle.ts';
import { readManifest } from '../../host/function/manifest.ts';
import type { Instance } from '../../host/pool/instance.ts';
import type { PoolFunction } from '../../host/pool/pool-function.ts';
import {
  type OpenedEngine,
  contend,
  fieldKB,
  kBPerMB,
  machineAvailableMB,
  memoryOf,
} from './instance-costs.ts';
import { coldFunction, dropFiles, type CacheState, type ColdFunction } from './cold-starts.ts';
import { setupWithout, type OmittedLayer } from './layers-off.ts';
import { startBeside } from './neighbours.ts';
import { serve } from './worker.ts';

/** In ms, by the names of the steps; `start` is all of it. */
export type StepSamples = Record<string, number>;

export interface DensityResult {
  startMs: number[];
  pssMB: number[];
  /** What the whole machine has less of, by instance: page tables and kernel objects included. */
  machineMB: number;
  teardownMs: number;
}

export interface ColdStarts {
  startMs: number[];
  /** What is read ahead of each that is listed. */
  listedBytes: number;
}

const hello = join(import.meta.dirname, '../../functions/hello');
const acquireTimeoutMs = 30_000;
/** By then it has as many processes as it may. */
const bombReadyMs = 300;

let opened:
  | (OpenedEngine & { fn: PoolFunction; stateDirectory: string; parked: number })
  | undefined;
let bombFn: PoolFunction | undefined;
let coldFn: ColdFunction | undefined;

const handlers = {
  /** Directories of the base image's layers, bottom first. */
  async open(options: {
    stateDirectory: string;
    parked: number;
    functionDirectory: string | undefined;
    egress: string[];
    args: string[];
    without: OmittedLayer | undefined;
  }): Promise<string[]> {
    const { stateDirectory, parked, functionDirectory = hello, egress, args, without } = options;
    const config = loadConfig({
      args: [
        `--state-directory=${stateDirectory}`,
        `--parked=${parked}`,
        '--parked-max=0',
        ...args,
      ],
      directory: stateDirectory,
    });
    const engine = await openEngine(
      config,
      (notice) => console.error(notice),
      setupWithout(without),
    );
    const loaded = await loadFunction(engine, functionDirectory, stateDirectory);
    const fn = { ...loaded, egress };
    opened = { engine, fn, stateDirectory, parked, cgroupParent: config.cgroupParent };
    return engine.baseImage.layers.map(({ path }) => path);
  },

  /** Starts instances one after the other by one path; each is gone before the next begins. */
  async start(options: { path: StartPath; count: number; idleMs: number }): Promise<number[]> {
    const samples: number[] = [];
    for (let round = 0; round < options.count; round++) {
      if (options.idleMs > 0) await sleep(options.idleMs);
      samples.push(await startOne(options.path));
      await settled();
    }
    return samples;
  },

  /** By the path `forked`, and how long each step of it took. */
  async startSteps({ count }: { count: number }): Promise<StepSamples[]> {
    const steps: StepSamples[] = [];
    const onStart = (record: unknown): void => {
      const { steps: taken } = record as StartRecord;
      const ms = taken.map(({ name, startNs, endNs }) => [name, (endNs - startNs) / 1e6] as const);
      steps.push(Object.fromEntries(ms));
    };
    channels.startEnd.subscribe(onStart);
    for (let round = 0; round < count; round++) {
      const startMs = await startOne('forked');
      Object.assign(steps.at(-1) ?? {}, { start: startMs });
    }
    channels.startEnd.unsubscribe(onStart);
    return steps;
  },

  /** By the path `parked`, with what of the layers in memory as `cache` says. */
  async startCold({ count, cache }: { count: number; cache: CacheState }): Promise<ColdStarts> {
    const { engine, fn, stateDirectory } = theOpened();
    const acquire = (one: PoolFunction) =>
      engine.pool.acquire(one, { timeoutMs: acquireTimeoutMs });
    coldFn ??= await coldFunction(engine, fn, { stateDirectory, acquire });
    const { functions, files, listedBytes } = coldFn;
    const startMs: number[] = [];
    for (let round = 0; round < count; round++) {
      await settled();
      if (cache === 'cold' || cache === 'listed') await dropFiles(files);
      startMs.push(await startOne('parked', functions[cache]));
    }
    return { startMs, listedBytes };
  },

  async density({ count, idleMs }: { count: number; idleMs: number }): Promise<DensityResult> {
    const { engine, fn } = theOpened();
    const availableMB = machineAvailableMB();
    const startMs: number[] = [];
    for (let number = 0; number < count; number++) {
      const began = performance.now();
      await engine.pool.prepare(fn);
      startMs.push(performance.now() - began);
    }
    // V8 tidies up some seconds after the last work, and by that makes shared pages its own.
    await sleep(idleMs);
    const machineMB = (availableMB - machineAvailableMB()) / count;
    const pids = containersOf(engine.zygotes.default.state.pid);
    if (pids.length !== count) throw new Error(`${pids.length} containers live, not ${count}`);
    const all = pids.map((pid) => [pid, ...childrenOf(pid)]);
    const pssMB = all.map((processes) => processes.reduce((sum, pid) => sum + pssOf(pid), 0));
    const began = performance.now();
    await engine.pool.close();
    const teardownMs = performance.now() - began;
    const left = all.flat().filter((pid) => existsSync(`/proc/${pid}`));
    if (left.length > 0) throw new Error(`${left.length} processes outlived the teardown`);
    return { startMs, pssMB, machineMB, teardownMs };
  },

  async contend(options: {
    instances: Pick<PoolFunction, 'cpu' | 'cpuWeight'>[];
    measuredMs: number;
  }): Promise<number[]> {
    const the = theOpened();
    // The pool knows a function by its name: each limit has one of its own.
    const wanted = options.instances.map((one) => {
      const name = `spin-${one.cpuWeight}-${one.cpu ?? 'all'}`;
      return { ...the.fn, ...one, name };
    });
    return await contend(the, wanted, options.measuredMs);
  },

  async memory(options: {
    count: number;
    idleMs: number;
  }): Promise<Awaited<ReturnType<typeof memoryOf>>> {
    const the = theOpened();
    return await memoryOf(the, the.fn, options);
  },

  /** Calls of one instance, after the same pause with it and without it frozen, in turns. */
  async frozen(options: {
    count: number;
    idleMs: number;
  }): Promise<{ hotMs: number[]; thawedMs: number[] }> {
    const { engine, fn } = theOpened();
    const { instance } = await engine.pool.acquire(fn, { timeoutMs: acquireTimeoutMs });
    const hotMs: number[] = [];
    const thawedMs: number[] = [];
    for (let round = 0; round < options.count; round++) {
      await sleep(options.idleMs);
      hotMs.push(await callOnce(instance));
      await instance.sandbox.freeze();
      await sleep(options.idleMs);
      thawedMs.push(await callOnce(instance));
    }
    return { hotMs, thawedMs };
  },

  /** Calls at a steady beat; `between`: how many instances there were half-way to the next. */
  async beat(options: {
    calls: number;
    periodMs: number;
    keepAlive: PoolFunction['keepAlive'];
  }): Promise<{ starts: StartPath[]; between: number[] }> {
    const { engine, fn } = theOpened();
    const called = { ...fn, name: 'beat', keepAlive: options.keepAlive };
    const starts: StartPath[] = [];
    const between: number[] = [];
    for (let call = 0; call < options.calls; call++) {
      const acquired = await engine.pool.acquire(called, { timeoutMs: acquireTimeoutMs });
      await callOnce(acquired.instance);
      engine.pool.release(acquired);
      starts.push(acquired.start);
      await sleep(options.periodMs / 2);
      between.push(engine.pool.stats().instances.length);
      await sleep(options.periodMs / 2);
    }
    return { starts, between };
  },

  async startBeside(options: {
    count: number;
    burst: number;
  }): Promise<Awaited<ReturnType<typeof startBeside>>> {
    const { engine, fn } = theOpened();
    return await startBeside(engine.pool, fn, options);
  },

  /** Calls of a hot instance, alone and then while another function forks what it can. */
  async callBesideBomb(options: {
    count: number;
    bomb: string;
  }): Promise<{ quietMs: number[]; noisyMs: number[] }> {
    const { engine, fn, stateDirectory } = theOpened();
    bombFn ??= await loadFunction(engine, options.bomb, stateDirectory);
    const acquire = (one: PoolFunction) =>
      engine.pool.acquire(one, { timeoutMs: acquireTimeoutMs });
    const hot = await acquire(fn);
    const bomb = await acquire(bombFn);
    const calls = async () => {
      const samples: number[] = [];
      for (let call = 0; call < options.count; call++) {
        await sleep(1);
        samples.push(await callOnce(hot.instance));
      }
      return samples;
    };
    await calls();
    const quietMs = await calls();
    const forking = callOnce(bomb.instance, { forMs: 900_000 });
    await sleep(bombReadyMs);
    const noisyMs = await calls();
    await Promise.allSettled([
      hot.instance.sandbox.destroy(),
      bomb.instance.sandbox.destroy(),
      forking,
    ]);
    return { quietMs, noisyMs };
  },
};

export type EngineHandlers = typeof handlers;

serve(handlers, async () => {
  await opened?.engine.close();
});

async function startOne(path: StartPath, fn = theOpened().fn): Promise<number> {
  const { engine } = theOpened();
  const began = performance.now();
  const acquired = await engine.pool.acquire(fn, { timeoutMs: acquireTimeoutMs });
  const tookMs = performance.now() - began;
  if (acquired.start !== path) throw new Error(`It started by "${acquired.start}", not "${path}"`);
  await acquired.instance.sandbox.destroy();
  return tookMs;
}

async function callOnce(instance: Instance, event: unknown = { name: 'bench' }): Promise<number> {
  const began = performance.now();
  await instance.call({
    requestId: 'bench',
    subject: 'hatch.fn.hello',
    attempt: 1,
    timeoutMs: acquireTimeoutMs,
    payload: Buffer.from(JSON.stringify(event)),
  });
  return performance.now() - began;
}

/** Until a parked container is there again; making it is nobody's waiting time. */
async function settled(): Promise<void> {
  const { engine, parked } = theOpened();
  while (engine.pool.stats().parked < parked) await sleep(1);
}

function theOpened(): NonNullable<typeof opened> {
  if (opened === undefined) throw new Error('Open the engine first');
  return opened;
}

async function loadFunction(
  engine: Engine,
  directory: string,
  stateDirectory: string,
): Promise<PoolFunction> {
  const manifest = await readManifest(directory);
  const outputDirectory = mkdtempSync(join(stateDirectory, 'bundle-'));
  const { layer, layerFile, entryPath } = await bundleFunction({
    directory,
    manifest,
    outputDirectory,
  });
  const facts = { name: manifest.name, version: '1', manifest, entryPath, layer };
  const version = { ...facts, images: { layers: [] }, createdAtMs: 0 };
  const layers = await loadFunctionLayers(
    {
      store: engine.images.store,
      puller: engine.images.puller,
      storage: engine.storage,
      startReads: engine.images.startReads,
      baseImage: engine.baseImage.reference,
      fetchLayer: () => Promise.resolve(createReadStream(layerFile)),
      directoryOf: (stored) => stored.directoryName,
    },
    version,
  );
  rmSync(outputDirectory, { recursive: true });
  return {
    ...poolFunctionOf(version, layers, noSecrets),
    instancesMax: 10_000,
    keepAlive: { policy: 'fixed', keepMs: 86_400_000 },
    concurrency: 1,
  };
}

/** PID 1 of each; the pairs that the zygote keeps for the next ones still belong to root. */
function containersOf(zygotePid: number): number[] {
  const isRoots = (pid: number) => /^Uid:\s+0\s/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return childrenOf(zygotePid).filter((pid) => !isRoots(pid));
}

function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}

/** In MB; shared pages count in parts. */
function pssOf(pid: number): number {
  return fieldKB(`/proc/${pid}/smaps_rollup`, 'Pss') / kBPerMB;
}

function noSecrets(name: string): never {
  throw new Error(`There is no secret "${name}" in a bench`);
}
