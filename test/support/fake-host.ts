/** A host with everything real but its containers and its layers on disk. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CallRecord, LogRecord } from '../../host/base/channels.ts';
import { connect } from '@nats-io/transport-node';
import { HatchError } from '../../host/base/errors.ts';
import type { BurstParts } from '../../host/dispatch/burst-handlers.ts';
import { controlHandlers } from '../../host/dispatch/control-handlers.ts';
import { ControlServer } from '../../host/dispatch/control.ts';
import { Dispatcher } from '../../host/dispatch/dispatcher.ts';
import { LocalFunctions } from '../../host/dispatch/local-functions.ts';
import { thisMachine } from '../../host/function/limit-fields.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';
import { SecretKeys } from '../../host/function/secret-keys.ts';
import { SecretStore } from '../../host/function/secret-store.ts';
import { RegistryClient } from '../../host/image/registry/registry-client.ts';
import { FakePool } from './fake-pool.ts';

export interface FakeHost {
  name: string;
  pool: FakePool;
  registry: FunctionRegistry;
  traces: Map<string, CallRecord>;
  logs: LogRecord[];
  warnings: string[];
  /** Directories of layers that are leased now. */
  leased: Set<string>;
  stop: () => Promise<void>;
}

export async function startFakeHost(
  name: string,
  server: { url: string; token: string },
): Promise<FakeHost> {
  const connection = await connect({ servers: server.url, token: server.token });
  const registry = await FunctionRegistry.open(connection);
  const pool = new FakePool();
  const parts = { traces: new Map<string, CallRecord>(), logs: [] as LogRecord[] };
  const keyDirectory = mkdtempSync(join(tmpdir(), 'hatch-fake-host-'));
  const secretKeys = SecretKeys.open(join(keyDirectory, 'secrets.key'), { create: true });
  const secrets = await SecretStore.open(connection, secretKeys);
  const leased = new Set<string>();
  const warnings: string[] = [];
  const log = {
    warn: (facts: Record<string, unknown>, text: string) =>
      warnings.push(`${text} ${JSON.stringify(facts)}`),
  };
  const functions = new LocalFunctions({
    resolve: (fn, ref) => registry.resolve(fn, ref),
    loadLayers: async (version) => {
      const path = `/layers/${version.name}@${version.version}`;
      leased.add(path);
      const directories = ['/layers/base', path];
      return { directories, env: {}, release: () => leased.delete(path) };
    },
    readSecret: (secret) => secrets.read(secret),
    pool,
    store: { usage: { usedBytes: 0, heldBytes: 0, capacityBytes: 0 } },
    log,
    retryMs: 20,
  });
  await secrets.watch({
    onChange: functions.onSecretChange,
    onError: (error) => warnings.push(error.message),
  });
  await registry.watch({ onChange: functions.onChange });
  const dispatcher = new Dispatcher({
    connection,
    pool,
    resolve: (fn, ref) => functions.resolve(fn, ref),
    inFlightMax: 100,
    log,
  });
  dispatcher.start();
  const control = new ControlServer({
    connection,
    hostName: name,
    log,
    handlers: controlHandlers({
      registry,
      secrets,
      secretKeys,
      functions,
      pool,
      log,
      images: noImages,
      volumes: { list: () => [], remove: async () => false },
      bursts,
      baseLayer: undefined,
      hostName: name,
      machine: thisMachine({
        memoryMb: 1024,
        limits: { cpuBurst: true, memoryHigh: true, io: true, ioBuffered: true },
      }),
      cancelCalls: (requestId) => dispatcher.cancel(requestId),
      findTrace: (requestId) => parts.traces.get(requestId),
      findLogs: ({ functionName }) => parts.logs.filter((one) => one.functionName === functionName),
      status: () => ({
        startedAtMs: 1,
        inFlight: dispatcher.inFlight,
        functions: 0,
        ...pool.stats(),
      }),
      doctor: () => Promise.resolve([{ name: 'kernel', status: 'ok', detail: name }]),
    }),
  });
  control.start();
  await connection.flush();
  const stop = async (): Promise<void> => {
    await control.stop();
    await dispatcher.stop({ drainMs: 0 });
    await functions.close();
    await registry.close();
    await secrets.close();
    rmSync(keyDirectory, { recursive: true });
    await connection.close();
  };
  return { name, pool, registry, leased, warnings, stop, ...parts };
}

/** Every function is ready but those called "large". */
const bursts: BurstParts['bursts'] = {
  pin: (functions) => {
    const names = functions.map((fn) => fn.name);
    const sizes = { pinnedBytes: 1024, fetchedLayers: 1, fetchedBytes: 512, readAheadBytes: 0 };
    const isLarge = (name: string) => name === 'large';
    return Promise.resolve({
      ready: names.filter((name) => !isLarge(name)),
      notReady: names.filter(isLarge).map((name) => ({ name, reason: 'no room' })),
      ...sizes,
    });
  },
  release: () => undefined,
};

const missing = () => Promise.reject(new HatchError('image.not_found', 'no layout there'));
const noImages = {
  store: {
    images: () => [],
    image: () => undefined,
    importLayout: missing,
    usage: { usedBytes: 0, heldBytes: 0, capacityBytes: 1 },
    pin: () => Promise.resolve(),
    unpin: () => Promise.resolve(),
    isPinned: () => false,
    layers: () => [],
    removeLayer: () => false,
    removeImage: () => Promise.resolve(false),
    settled: () => Promise.resolve(),
    acquire: () => ({ layers: [], release: () => {}, [Symbol.dispose]: () => {} }),
    treePathOf: () => '/nowhere',
  },
  puller: { find: missing, pull: missing, resolve: missing, progress: () => [] },
  client: new RegistryClient({ credentialsFile: '/nowhere' }),
};
