/** What this host offers and what it lacks, mechanism by mechanism; `hatch doctor` shows it. */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { detectCgroupLayout } from './cgroup/cgroup.ts';
import type { Check } from './dispatch/control-api.ts';
import type { Engine } from './engine.ts';

/** Everything here was exercised when the host started: a host that lacked one would not run. */
export function examineHost(engine: Engine): Promise<Check[]> {
  const { zygote, baseImage, layers, pool } = engine;
  const { mode, reason, pid, forks, generation } = zygote.state;
  const forking: Check =
    mode === 'fork'
      ? ok('fork', `zygote ${pid}, ${forks} forks, generation ${generation}`)
      : {
          name: 'fork',
          status: 'warn',
          detail: `${reason}: instances boot a Node.js of their own`,
        };
  const { usedBytes, capacityBytes } = layers.usage;
  return Promise.resolve([
    ok('kernel', release()),
    forking,
    ok('cgroups', `${detectCgroupLayout()}: cpu, memory and pids limits`),
    ok('namespaces', 'pid, mount, network, ipc, uts, cgroup, and user entered last'),
    ok('root file system', 'overlay on idmapped layers, upper in memory'),
    ok('seccomp', 'allowlist "node"'),
    ok('capabilities', 'none, no_new_privs'),
    lsm('apparmor', '/sys/kernel/security/apparmor/profiles'),
    ok('base image', `${baseImage.reference}, ${baseImage.layers.length} layers`),
    ok('layer cache', `${usedBytes} of ${capacityBytes} bytes`),
    ok('parked containers', String(pool.stats().parked)),
  ]);
}

function ok(name: string, detail: string): Check {
  return { name, status: 'ok', detail };
}

/** Not used by this version: said, so that nobody counts on it. */
function lsm(name: string, path: string): Check {
  try {
    readFileSync(path);
    return { name, status: 'warn', detail: 'active in the kernel, no profile applied' };
  } catch {
    return { name, status: 'warn', detail: 'not active in this kernel' };
  }
}
