/**
 * The container engine: everything below the pool, opened in order, closed in reverse. It knows
 * nothing of NATS and of what is deployed.
 */
import { closeSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { HatchError, messageOf } from './base/errors.ts';
import type { Isolation } from './base/isolation.ts';
import { makeId } from './base/ids.ts';
import { ReadyStock } from './base/ready-stock.ts';
import { openCgroupDriver, type OptionalLimits } from './cgroup/cgroup.ts';
import { diskOf } from './cgroup/disk.ts';
import { readPressure, tellsOfPressure } from './cgroup/pressure.ts';
import { ReadyCgroups } from './cgroup/ready-cgroups.ts';
import { enterSubtree } from './cgroup/subtree.ts';
import type { HostConfig } from './config.ts';
import { openImages, type Images, type ImagesOptions } from './image/images.ts';
import type { StoredImage } from './image/stored-image.ts';
import { Network } from './network/network.ts';
import { parseSubnet, type Subnet } from './network/subnet.ts';
import { IdRanges } from './namespace/id-ranges.ts';
import { Pool, type PoolLimits } from './pool/pool.ts';
import type { ZygoteSetup } from './protocol/zygote.ts';
import { isolationHere, requireLayers } from './security/isolation.ts';
import { chooseLabel } from './security/labels.ts';
import { RefusedCalls } from './security/refused-calls.ts';
import { callNames, stageProfiles } from './security/security.ts';
import type { SandboxParts } from './sandbox/sandbox.ts';
import { openCopyUpProbe, type CopyUpProbe } from './storage/copy-up-probe.ts';
import { MemoryScratch } from './storage/memory-scratch.ts';
import { OverlayDriver } from './storage/overlay.ts';
import type { StorageDriver } from './storage/storage-driver.ts';
import { StorageDrivers } from './storage/storage-drivers.ts';
import { Volumes } from './storage/volumes.ts';
import { landlockAbi } from './sys/kernel-features.ts';
import { oomScore, setOomScore } from './sys/oom-score.ts';
import {
  attachMount,
  cloneMount,
  detachMount,
  mountAttribute,
  setMountAttributes,
} from './sys/mount.ts';
import { Zygotes } from './zygote/zygotes.ts';

export interface Engine {
  images: Images;
  storage: StorageDrivers;
  volumes: Volumes;
  baseImage: StoredImage;
  zygotes: Zygotes;
  pool: Pool;
  network: Network;
  /** Which limits an instance can have here besides those of CPU, memory and pids. */
  optionalLimits: OptionalLimits;
  isolation: Isolation;
  copyUpProbe: CopyUpProbe;
  close(): Promise<void>;
}

const MiB = 2 ** 20;
/** Descriptors of each process of a function. */
export const openFilesMax = 1024;
/** What one instance may write to its root, and to each of /tmp and /dev/shm. */
const rootBytesMax = 512 * MiB;
const tmpfsBytesMax = 64 * MiB;
/** Enough for a burst; each costs the kernel a few ten KiB. */
const networkNamespacesReady = 16;
const idRangesReady = 16;
const cgroupsReady = 16;
const spareRoots = 16;
/** Enough for our own code until a function brings limits of its own. */
const parkedLimits = {
  memoryBytes: 128 * MiB,
  cpuCores: undefined,
  cpuWeight: 100,
  pidsMax: 64,
} as const;
const noPressure =
  'The kernel does not tell of pressure (boot it with psi=1): idle instances are given back ' +
  'when memory is nearly used up, and nothing slows down for others that want the CPU';

/**
 * Needs root and a mount namespace of its own. What an earlier run left under the same names is
 * removed first. Rejects with `host.unsupported`, `image.*` or `host.start_failed`. What `setup`
 * replaces is for measuring what a layer costs: no configuration reaches it.
 */
export async function openEngine(
  config: HostConfig,
  onNotice: (message: string) => void,
  setup: Partial<ZygoteSetup> = {},
): Promise<Engine> {
  const { label, ...states } = chooseLabel(config);
  const isolation = isolationHere(states);
  requireLayers(isolation, config.requireLayers);
  await using opened = new AsyncDisposableStack();
  // Before the zygote, which inherits it. Where it is not allowed, functions still go first.
  setOomScore(oomScore.host);
  const directory = (name: string): string => makeDirectory(config.stateDirectory, name);
  // Nothing of a run is worth keeping: an idle mount point, an empty directory.
  rmSync(join(config.stateDirectory, 'run'), { recursive: true, force: true });

  const disk = diskOf(config.stateDirectory);
  // Before the zygote, which is then where we are.
  const root = enterSubtree();
  const cgroups = openCgroupDriver({ root, parent: config.cgroupParent, disk });
  opened.defer(() => cgroups.close());
  await cgroups.removeAll();

  const ready = new ReadyCgroups({
    driver: cgroups,
    limits: parkedLimits,
    readyCount: cgroupsReady,
    nextName: () => makeId('i'),
  });
  opened.defer(() => ready.close());

  const images = await openImages(imagesOptions(config, directory('images')));
  opened.defer(() => images.close());
  const { store: layers } = images;
  const { baseImage, lease } = await importBaseImage(layers, config.baseImageDirectory);
  opened.defer(() => lease.release());

  const scratch = memoryScratch(config);
  const storage = await openStorage(config, scratch);
  opened.defer(() => storage.close());
  const zygoteRoot = directory('run/zygote-root');
  mountZygoteRoot(storage.of('overlay'), baseImage, zygoteRoot);
  opened.defer(() => detachMount(zygoteRoot));
  const refusedCalls = new RefusedCalls();
  opened.defer(() => refusedCalls.close());
  const onListener = (fd: number): void => refusedCalls.listen(fd);
  const zygotes = await startZygotes({
    config,
    setup: { label, ...setup },
    root: zygoteRoot,
    onListener,
    onNotice,
  });
  opened.defer(() => zygotes.stop());

  const networks = networkStock(zygotes.default, onNotice);
  opened.defer(() => networks.close());
  const network = await Network.open(networkOptions(config, zygotes.default, onNotice));
  opened.defer(() => network.close());
  const idRanges = rangesOf(config, layers.layersDirectory, directory('run/layers'));
  opened.defer(() => idRanges.close());
  await Promise.all(
    [ready, scratch, networks, idRanges, zygotes.default].map((stock) => stock.fill()),
  );

  const copyUpProbe = openCopyUpProbe({ layout: cgroups.layout, callNames: callNames() });
  opened.defer(() => copyUpProbe.close());
  const volumes = Volumes.open(config.stateDirectory);
  const parts = { cgroups: ready, storage, volumes, idRanges, networks, copyUpProbe };
  const pool = openPool({ config, zygotes, network, parts, isolation, group: root, onNotice });
  opened.defer(() => pool.close());
  tellOfRefused(refusedCalls, pool, onNotice);
  await pool.fill();

  const all = opened.move();
  const files = { images, storage, volumes, baseImage, copyUpProbe };
  const built = { ...files, zygotes, pool, network, isolation };
  return { ...built, optionalLimits: cgroups.optional, close: () => all.disposeAsync() };
}

async function importBaseImage(layers: Images['store'], directory: string) {
  const baseImage = await layers.importLayout({ directory });
  return { baseImage, lease: layers.acquire(baseImage.layers.map(({ chainId }) => chainId)) };
}

function rangesOf(
  { uidBase, uidRanges }: HostConfig,
  layersDirectory: string,
  mountDirectory: string,
): IdRanges {
  return new IdRanges({
    firstHostId: uidBase,
    rangesMax: uidRanges,
    layersDirectory,
    mountDirectory,
    readyCount: idRangesReady,
  });
}

function openStorage(config: HostConfig, scratch: MemoryScratch): Promise<StorageDrivers> {
  return StorageDrivers.open({
    overlay: OverlayDriver.open(scratch),
    stateDirectory: config.stateDirectory,
    rootBytesMax,
    preferred: config.storage,
  });
}

function imagesOptions(config: HostConfig, root: string): ImagesOptions {
  return {
    store: {
      root,
      capacityBytes: config.layerCacheBytes,
      policy: config.layerCachePolicy,
    },
    registries: {
      credentialsFile: config.registryCredentialsFile,
      mirrors: mirrorsByRegistry(config.registryMirrors),
      insecure: config.registriesInsecure,
      caFile: config.registryCaFile,
    },
    downloadsMax: config.downloadsMax,
  };
}

/** From `docker.io=https://host`, several of one registry in their order. */
function mirrorsByRegistry(mirrors: readonly string[]): Record<string, string[]> {
  const byRegistry: Record<string, string[]> = {};
  for (const mirror of mirrors) {
    const [registry = '', url = ''] = mirror.split('=');
    (byRegistry[registry] ??= []).push(url);
  }
  return byRegistry;
}

/** In the log of the function whose process it was. */
function tellOfRefused(
  refusedCalls: RefusedCalls,
  pool: Pool,
  onNotice: (message: string) => void,
): void {
  refusedCalls.onRefused = ({ name, pid, groups }) => {
    const waitMs = pool.refused(name, groups);
    if (waitMs === undefined) onNotice(`Process ${pid} of ours was refused the call "${name}"`);
    return waitMs ?? 0;
  };
}

function openPool(options: {
  config: HostConfig;
  zygotes: Zygotes;
  network: Network;
  parts: SandboxParts;
  isolation: Isolation;
  /** The one above those of the host. */
  group: string;
  onNotice: (message: string) => void;
}): Pool {
  const { config, zygotes, network, parts, isolation, group, onNotice } = options;
  if (!tellsOfPressure()) onNotice(noPressure);
  return Pool.open({
    parts,
    zygotes,
    isolation,
    connect: (egress) => network.connect(egress),
    ...poolLimits(config),
    readPressure: () => readPressure({ group }),
    onNotice,
  });
}

function poolLimits(config: HostConfig): PoolLimits {
  return {
    parked: config.parked,
    parkedMax: config.parkedMax,
    memoryBytesMax: config.memoryBudgetMb * MiB,
    instancesMax: config.instancesMax,
    freezeIdleAfterMs: config.freezeIdleAfterMs ?? 'never',
    queueLengthMax: config.queueLengthMax,
    refillsPerSecond: config.parkedPerSecondMax,
  };
}

/**
 * Read-only: the zygote writes nothing, and its children leave it at once. Attached, since before
 * Linux 6.15 nothing else can be cloned.
 */
function mountZygoteRoot(storage: StorageDriver, baseImage: StoredImage, path: string): void {
  const { mountFd } = storage.createRoot({
    id: 'zygote',
    lowerDirectories: baseImage.layers.map(({ path }) => path),
    ownerUid: 0,
    ownerGid: 0,
  });
  setMountAttributes(mountFd, { attributes: mountAttribute.readOnly });
  attachMount(mountFd, path);
}

/** Each is given away once: the kernel destroys it with its container, in the background. */
function networkStock(
  zygote: Zygotes['default'],
  onNotice: (message: string) => void,
): ReadyStock<number> {
  return new ReadyStock({
    name: 'networks',
    count: networkNamespacesReady,
    make: () => zygote.makeNetworkNamespace(),
    discard: closeSync,
    onError: (error) => onNotice(`Cannot make a network namespace: ${messageOf(error)}`),
  });
}

function memoryScratch({ stateDirectory }: HostConfig): MemoryScratch {
  return new MemoryScratch({
    sizeBytes: rootBytesMax,
    spareCount: spareRoots,
    mountPoints: join(stateDirectory, 'run/scratch'),
  });
}

function networkOptions(
  config: HostConfig,
  zygote: Zygotes['default'],
  onNotice: (message: string) => void,
): Parameters<typeof Network.open>[0] {
  return {
    bridge: config.networkBridge,
    subnets: { ipv4: subnetOf(config.networkIpv4), ipv6: subnetOf(config.networkIpv6) },
    firewall: config.firewall,
    nameservers: config.nameservers?.split(','),
    tracesFile: join(config.stateDirectory, 'network.json'),
    makeNamespace: () => zygote.makeNetworkNamespace(),
    onNotice,
  };
}

/** Of a configuration that was checked. */
function subnetOf(text: string): Subnet {
  const subnet = parseSubnet(text);
  if (subnet === undefined) throw new HatchError('host.config_invalid', `"${text}" is no subnet`);
  return subnet;
}

function startZygotes(options: {
  config: HostConfig;
  setup: Partial<ZygoteSetup> & Pick<ZygoteSetup, 'label'>;
  root: string;
  onListener: (fd: number) => void;
  onNotice: (message: string) => void;
}): Promise<Zygotes> {
  const { config, setup, root, onListener, onNotice } = options;
  return Zygotes.start(
    {
      mountRoot: () => cloneMount({ path: root, recursive: false }),
      buildDirectory: makeDirectory(config.stateDirectory, 'run/zygote'),
      setup: {
        seccomp: seccompPrograms(),
        landlockAbi: landlockAbi() ?? 0,
        tmpfsBytes: tmpfsBytesMax,
        openFilesMax,
        fork: config.fork,
        ...setup,
      },
      onListener,
      replaceAfterForks: config.replaceZygoteAfterForks,
      replaceAfterMs: config.replaceZygoteAfterMs,
      zygotesMax: config.zygotesMax,
      idleMs: config.zygoteIdleMs,
    },
    onNotice,
  );
}

function seccompPrograms(): ZygoteSetup['seccomp'] {
  const { base, seals } = stageProfiles();
  const encode = (program: Buffer): string => program.toString('base64');
  return { base: encode(base), seals: { node: encode(seals.node), strict: encode(seals.strict) } };
}

function makeDirectory(stateDirectory: string, name: string): string {
  const path = join(stateDirectory, name);
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new HatchError('host.config_invalid', `Cannot use state directory "${stateDirectory}"`, {
      cause,
    });
  }
  return path;
}
