/** The host: builds its parts, joins them to NATS, keeps them running, takes them down again. */
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { pino, type Logger } from 'pino';
import { HatchError, messageOf, toHatchError } from './base/errors.ts';
import { configHelp, loadConfig, type HostConfig } from './config.ts';
import { ControlServer } from './dispatch/control.ts';
import { controlHandlers, type ControlParts } from './dispatch/control-handlers.ts';
import { Dispatcher } from './dispatch/dispatcher.ts';
import { loadFunctionLayers, type FunctionLayerSources } from './dispatch/function-layers.ts';
import { LocalFunctions, volumesOf, type FunctionLayers } from './dispatch/local-functions.ts';
import { connectNats, type NatsAccess } from './dispatch/nats-access.ts';
import { startNatsServer } from './dispatch/nats-server.ts';
import { examineHost } from './doctor.ts';
import type { FunctionVersion } from './function/record.ts';
import type { Volumes } from './storage/volumes.ts';
import { openEngine, type Engine } from './engine.ts';
import { BundleRepository } from './function/bundle-repository.ts';
import { thisMachine } from './function/limit-fields.ts';
import { natsRefusal } from './function/nats-refusal.ts';
import { FunctionRegistry } from './function/registry.ts';
import { SecretKeys } from './function/secret-keys.ts';
import { SecretStore } from './function/secret-store.ts';
import { tryLockFile } from './sys/file-lock.ts';
import { executeInOwnMounts, hasOwnMounts } from './sys/own-mounts.ts';
import { BurstPins } from './image/burst-pins.ts';
import { closeAllOnExec } from './sys/process.ts';
import { openServiceManager } from './sys/service-manager.ts';
import { startTelemetry, type Telemetry } from './telemetry/telemetry.ts';

/** Runs until SIGINT or SIGTERM, then drains and leaves nothing behind. */
export async function runHost(config: HostConfig): Promise<void> {
  enterOwnMountNamespace();
  const tellManager = openServiceManager(process.env);
  // Whoever started us may have left files open: they would reach booted instances.
  closeAllOnExec();
  const log = pino({ name: 'hatch', level: config.logLevel }, pino.destination(2));
  await using opened = new AsyncDisposableStack();
  mkdirSync(config.stateDirectory, { recursive: true, mode: 0o700 });
  // It may have been there, open to all.
  chmodSync(config.stateDirectory, 0o700);
  opened.defer(lockState(config.stateDirectory));
  const stopping = signalled();

  const engine = await openEngine(config, (notice) => log.warn(notice));
  opened.defer(() => engine.close());
  const { connection, refusal } = await joinNats(config, log, opened);
  await serve({ config, log, engine, connection, opened });
  // Whoever waits for us to be ready may call as soon as this has reached the server.
  await connection.flush();
  const refused = refusal();
  // A host that may not hear calls, or control requests, would only seem to be one.
  if (refused !== undefined) throw refused;
  const nats = connection.getServer();
  tellManager('READY=1', `STATUS=Serves calls of ${nats}`);
  log.info({ nats, zygote: engine.zygotes.default.state }, 'Host is ready');

  const signal = await stopping;
  tellManager('STOPPING=1', 'STATUS=Ends the calls that run');
  log.info({ signal }, 'Host is stopping');
}

/** `hatch up` has done it already: to start over once more takes a third of a second. */
function enterOwnMountNamespace(): void {
  if (process.getuid?.() !== 0)
    throw new HatchError('host.unsupported', 'A host needs root: start it with sudo');
  if (hasOwnMounts()) return;
  const args = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  executeInOwnMounts(args, process.env);
}

function lockState(stateDirectory: string): () => void {
  const unlock = tryLockFile(join(stateDirectory, 'lock'));
  if (unlock !== undefined) return unlock;
  throw new HatchError(
    'host.start_failed',
    `Another host uses "${stateDirectory}": stop it, or give this one its own --state-directory`,
  );
}

function signalled(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, resolve);
  });
}

interface Joined {
  connection: NatsConnection;
  /** What the server was first to refuse us. */
  refusal: () => HatchError | undefined;
}

async function joinNats(
  config: HostConfig,
  log: Logger,
  opened: AsyncDisposableStack,
): Promise<Joined> {
  const connection = await connectNats(await natsAccess(config, log, opened), {
    name: `hatch host ${config.hostName}`,
    maxReconnectAttempts: -1,
    // Credentials that are refused now may be replaced, or accepted, a moment later.
    ignoreAuthErrorAbort: true,
  });
  opened.defer(() => connection.close());
  return { connection, refusal: followStatus(connection, log) };
}

async function natsAccess(
  config: HostConfig,
  log: Logger,
  opened: AsyncDisposableStack,
): Promise<NatsAccess> {
  if (config.natsUrl === undefined) {
    const server = await startNatsServer({
      stateDirectory: config.stateDirectory,
      ...(config.natsPort === undefined ? {} : { port: config.natsPort }),
      onLog: (line) => log.debug({ line }, 'nats-server'),
    });
    opened.defer(() => server.stop());
    return { url: server.url, token: server.token };
  }
  return {
    url: config.natsUrl,
    token: config.natsToken,
    credentialsFile: config.natsCredentialsFile,
    nkeyFile: config.natsNkeyFile,
    tlsCaFile: config.natsTlsCaFile,
    tlsCertFile: config.natsTlsCertFile,
    tlsKeyFile: config.natsTlsKeyFile,
    inboxPrefix: config.natsInboxPrefix,
  };
}

function followStatus(connection: NatsConnection, log: Logger): Joined['refusal'] {
  let refusal: HatchError | undefined;
  const follow = async (): Promise<void> => {
    for await (const status of connection.status()) {
      if (status.type === 'error') {
        refusal ??= natsRefusal(status.error);
        log.warn({ error: status.error.message }, 'NATS has refused something');
      } else if (status.type === 'disconnect' || status.type === 'reconnect')
        log.warn({ nats: status.type }, 'NATS connection changed');
    }
  };
  void follow();
  return () => refusal;
}

interface Serving {
  config: HostConfig;
  log: Logger;
  engine: Engine;
  connection: NatsConnection;
  opened: AsyncDisposableStack;
}

/** Opens what answers: functions first, then calls, then control. Closed in reverse order. */
async function serve({ config, log, engine, connection, opened }: Serving): Promise<void> {
  const { pool, images } = engine;
  const startedAtMs = Date.now();
  const telemetry = openTelemetry({ config, log, connection });
  opened.defer(() => telemetry.stop());

  const secretKeys = openSecretKeys(config);
  const secrets = await SecretStore.open(connection, secretKeys);
  opened.defer(() => secrets.close());
  const registry = await openRegistry(config, engine, connection);
  opened.defer(() => registry.close());
  const layerParts = layerSources(engine, registry);
  const functions = new LocalFunctions({
    readSecret: (name) => secrets.read(name),
    resolve: (name, reference) => registry.resolve(name, reference),
    loadLayers: (version) => loadVersion(engine.volumes, layerParts, version),
    store: images.store,
    pool,
    log,
    onLoaded: ({ egress }) => engine.network.prepare(egress),
  });
  opened.defer(() => functions.close());
  await secrets.watch({
    onChange: functions.onSecretChange,
    onError: (error) => log.warn({ error: messageOf(error) }, 'Cannot follow the secrets'),
  });
  await registry.watch({
    onChange: functions.onChange,
    onError: (error) => log.warn({ error: messageOf(error) }, 'Cannot follow the functions'),
  });

  const dispatcher = new Dispatcher({
    connection,
    pool,
    resolve: (name, reference) => functions.resolve(name, reference),
    inFlightMax: config.inFlightMax,
    log,
  });
  dispatcher.start();
  opened.defer(() => dispatcher.stop({ drainMs: config.drainMs }));

  const handlers = controlHandlers({
    registry,
    secrets,
    secretKeys,
    functions,
    pool,
    ...openBursts({ engine, opened }),
    images,
    volumes: engine.volumes,
    hostName: config.hostName,
    machine: thisMachine({ memoryMb: config.memoryBudgetMb, limits: engine.optionalLimits }),
    log,
    cancelCalls: (requestId) => dispatcher.cancel(requestId),
    findTrace: (requestId) => telemetry.traces.find(requestId),
    findLogs: (query) => telemetry.logs.find(query),
    status: () => ({
      startedAtMs,
      inFlight: dispatcher.inFlight,
      functions: functions.count,
      ...pool.stats(),
    }),
    doctor: () => examineHost(engine, telemetry.copyUps.functions()),
  });
  const control = new ControlServer({ connection, hostName: config.hostName, handlers, log });
  control.start();
  opened.defer(() => control.stop());
}

function openRegistry(
  { bundles }: HostConfig,
  { images }: Engine,
  connection: NatsConnection,
): Promise<FunctionRegistry> {
  return FunctionRegistry.open(connection, {
    repository: bundles,
    openRepository: (name) => new BundleRepository(images.client, name),
  });
}

function layerSources(
  { images, storage, baseImage }: Engine,
  registry: FunctionRegistry,
): FunctionLayerSources {
  return {
    ...images,
    storage,
    baseImage: baseImage.reference,
    fetchLayer: ({ layer, repository }) => registry.getLayer(layer.digest, repository),
    directoryOf: ({ directoryName }) => directoryName,
  };
}

/** Its volumes are held as long as its layers are. */
async function loadVersion(
  volumes: Volumes,
  sources: FunctionLayerSources,
  version: FunctionVersion,
): Promise<FunctionLayers> {
  const releaseVolumes = await volumes.hold(volumesOf(version));
  try {
    const layers = await loadFunctionLayers(sources, version);
    const release = (): void => {
      layers.release();
      releaseVolumes();
    };
    return { ...layers, release };
  } catch (error) {
    releaseVolumes();
    throw error;
  }
}

function openBursts({
  engine: { images, baseImage },
  opened,
}: Pick<Serving, 'engine' | 'opened'>): Pick<ControlParts, 'bursts' | 'baseLayer'> {
  const bursts = new BurstPins(images.store);
  opened.defer(() => bursts.release());
  return { bursts, baseLayer: baseImage.layers.at(-1)?.chainId };
}

function openTelemetry({
  config,
  log,
  connection,
}: Pick<Serving, 'config' | 'log' | 'connection'>): Telemetry {
  return startTelemetry({
    ...(config.otlpEndpoint === undefined ? {} : { otlpEndpoint: config.otlpEndpoint }),
    traceCountMax: config.traceCountMax,
    logBytesMax: config.logBytesMax,
    publish: (subject, data) => {
      if (!connection.isClosed()) connection.publish(subject, data);
    },
    onError: (message) => log.warn(message),
  });
}

/** A file that was named is never made: a host with a key of its own opens nobody's secrets. */
function openSecretKeys({ secretsKeyFile, stateDirectory }: HostConfig): SecretKeys {
  if (secretsKeyFile !== undefined) return SecretKeys.open(secretsKeyFile, { create: false });
  return SecretKeys.open(join(stateDirectory, 'secrets.key'), { create: true });
}

/** `hatch up`. Exit codes as of every command: 1 failed, 2 wrong usage. */
async function up(args: string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(`Usage: hatch up [FLAGS]\n\nFlags:\n${configHelp()}\n`);
    return 0;
  }
  try {
    await runHost(loadConfig({ args, env: process.env }));
    return 0;
  } catch (thrown) {
    const error = toHatchError(thrown);
    process.stderr.write(`error: ${error.message} (${error.code})\n`);
    if (error.code === 'internal.bug') process.stderr.write(`${String(error.stack)}\n`);
    return error.code === 'host.config_invalid' ? 2 : 1;
  }
}

if (import.meta.main) process.exitCode = await up(process.argv.slice(2));
