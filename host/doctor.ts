/** What this host offers and what it lacks, mechanism by mechanism; `hatch doctor` shows it. */
import {
  alwaysEnforced,
  isolationLayerNames,
  type AlwaysEnforced,
  type Isolation,
} from './base/isolation.ts';
import type { OptionalLimits } from './cgroup/cgroup.ts';
import type { Check } from './dispatch/control-api.ts';
import { checkKernel } from './dispatch/kernel-checks.ts';
import type { Engine } from './engine.ts';
import type { Pool } from './pool/pool.ts';
import type { Zygotes } from './zygote/zygotes.ts';
import type { StorageName } from './storage/storage-driver.ts';
import type { StorageDrivers } from './storage/storage-drivers.ts';
import type { CopyUpProbe } from './storage/copy-up-probe.ts';
import { volumesMaxOfHost, type Volumes } from './storage/volumes.ts';
import { oomScore, ownOomScore } from './sys/oom-score.ts';
import type { FunctionCopyUps } from './telemetry/copy-up-account.ts';
import { adviseOn } from './telemetry/copy-up-advice.ts';
import { formatBytes, printable } from './telemetry/format.ts';

/** Functions with advice that are named; the rest is counted. */
const advisedMax = 5;

/** What a host cannot do without was exercised when it started. */
export function examineHost(engine: Engine, copyUps: readonly FunctionCopyUps[]): Promise<Check[]> {
  const { zygotes, baseImage, images, storage, volumes, pool, network, isolation } = engine;
  const { mode, reason, pid, forks, generation } = zygotes.default.state;
  const forking: Check =
    mode === 'fork'
      ? ok('fork', `zygote ${pid}, ${forks} forks, generation ${generation}`)
      : {
          name: 'fork',
          status: 'warn',
          detail: `${reason}: instances boot a Node.js of their own`,
        };
  const { usedBytes, capacityBytes } = images.store.usage;
  return Promise.resolve([
    ...checkKernel(),
    forking,
    tenants(zygotes),
    limits(engine.optionalLimits),
    outOfMemory(ownOomScore()),
    ...isolationChecks(isolation),
    ok('system calls', 'allowlist "node"'),
    rootFileSystem(storage),
    durableVolumes(volumes),
    ok('network', network.description ?? 'loopback only, as no function has egress'),
    ok('base image', `${baseImage.reference}, ${baseImage.layers.length} layers`),
    ok('layer cache', `${usedBytes} of ${capacityBytes} bytes`),
    memory(pool),
    ok('parked containers', String(pool.stats().parked)),
    copyUpTiming(engine.copyUpProbe),
    ...copyUpChecks(copyUps),
  ]);
}

const storageMeanings: Record<StorageName, string> = {
  overlay: 'overlay on idmapped layers, upper in memory',
  btrfs: 'btrfs snapshots, limited by a quota',
  zfs: 'zfs clones, limited by a quota',
};

/** A function that names a driver which is not among them is refused when it is deployed. */
function rootFileSystem({ preferred, names }: StorageDrivers): Check {
  const others = names.filter((name) => name !== preferred).map((name) => storageMeanings[name]);
  const further = others.length === 0 ? '' : `; on request ${others.join(', ')}`;
  return ok('root file system', `${storageMeanings[preferred]}${further}`);
}

/** A function that asks for one where there are none is refused when it is deployed. */
function durableVolumes(volumes: Volumes): Check {
  if (!volumes.offered)
    return ok('volumes', 'none: a state directory on btrfs, which has checksums, would offer them');
  const all = volumes.list();
  const usedBytes = all.reduce((sum, volume) => sum + volume.usedBytes, 0);
  return ok('volumes', `${all.length} of at most ${volumesMaxOfHost}, ${formatBytes(usedBytes)}`);
}

function tenants({ others, memoryBytes }: Zygotes): Check {
  const detail = `${others.length} zygotes besides the default one`;
  return ok('tenants', `${detail}, ${Math.ceil(memoryBytes / 2 ** 20)} MiB`);
}

/** `requireLayers` turns a warning into a host that does not start. */
export function isolationChecks(isolation: Isolation): Check[] {
  return isolationLayerNames.map((name): Check => {
    const state = isolation[name];
    if (state !== 'enforced') return { name: `layer ${name}`, status: 'warn', detail: state };
    const meaning = name in alwaysEnforced ? alwaysEnforced[name as AlwaysEnforced] : undefined;
    return ok(`layer ${name}`, meaning === undefined ? state : `${state}: ${meaning}`);
  });
}

/** A function that wants what is missing is refused when it is deployed. */
export function limits({ cpuBurst, memoryHigh, io, ioBuffered }: OptionalLimits): Check {
  const missing = [
    ...(cpuBurst ? [] : ['cpuBurst (Linux 5.14)']),
    ...(memoryHigh ? [] : ['memoryHighMb (cgroup v2)']),
    ...(io ? [] : ['io (a controller, and one disk below the state directory)']),
    ...(io && !ioBuffered ? ['io of writes that nobody waits for (cgroup v2)'] : []),
  ];
  if (missing.length === 0) return ok('limits', 'all that a function can have');
  return {
    name: 'limits',
    status: 'warn',
    detail: `cpu, memory and pids, but not ${missing.join(', ')}`,
  };
}

function memory({ memoryBytes, memoryBytesMax }: Pool): Check {
  const budget = `${formatBytes(memoryBytesMax)} (memoryBudgetMb)`;
  return ok('memory', `containers take ${formatBytes(memoryBytes)} of ${budget}`);
}

/** Functions go first in any case: their score is theirs to raise. */
export function outOfMemory(hostScore: number): Check {
  if (hostScore <= oomScore.host) return ok('out of memory', 'functions go first, the host last');
  const detail = `functions go first, but the host has a score of ${hostScore}: it needs`;
  return { name: 'out of memory', status: 'warn', detail: `${detail} CAP_SYS_RESOURCE to go last` };
}

/** Copy-ups are listed in any case. */
function copyUpTiming({ unavailable }: CopyUpProbe): Check {
  const name = 'copy-up timing';
  if (unavailable === undefined) return ok(name, 'by eBPF, at ovl_copy_up_one');
  return { name, status: 'warn', detail: `traces do not tell of it: ${unavailable}` };
}

/** Functions whose copy-ups could be avoided, those first that copied most. */
export function copyUpChecks(functions: readonly FunctionCopyUps[]): Check[] {
  const advised = functions.flatMap((fn) => {
    const [advice] = adviseOn(fn.files);
    return advice === undefined ? [] : [{ fn, advice }];
  });
  if (advised.length === 0) return [ok('copy-ups', 'none that could be avoided')];
  const checks = advised.slice(0, advisedMax).map(({ fn, advice }): Check => {
    const { paths, bytesCopied, text } = advice;
    const [first = ''] = paths;
    const which = paths.length === 1 ? first : `${first} and ${paths.length - 1} more files`;
    const calls = fn.calls === 1 ? '1 call' : `${fn.calls} calls`;
    const detail = `${formatBytes(bytesCopied)} in ${calls}: ${printable(which)}: ${text}`;
    return { name: `copy-ups of ${fn.functionName}`, status: 'warn', detail };
  });
  const more = advised.length - checks.length;
  return more === 0 ? checks : [...checks, ok('copy-ups', `advice on ${more} more functions`)];
}

function ok(name: string, detail: string): Check {
  return { name, status: 'ok', detail };
}
