/** What this host offers and what it lacks, mechanism by mechanism; `hatch doctor` shows it. */
import type { Check } from './dispatch/control-api.ts';
import { checkKernel } from './dispatch/kernel-checks.ts';
import type { Engine } from './engine.ts';

/** What a host cannot do without was exercised when it started. */
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
    ...checkKernel(),
    forking,
    ok('limits', 'cpu, memory and pids of each instance'),
    ok('isolation', 'seven namespaces, user entered last; no capabilities, no_new_privs'),
    ok('system calls', 'allowlist "node"'),
    ok('root file system', 'overlay on idmapped layers, upper in memory'),
    ok('base image', `${baseImage.reference}, ${baseImage.layers.length} layers`),
    ok('layer cache', `${usedBytes} of ${capacityBytes} bytes`),
    ok('parked containers', String(pool.stats().parked)),
  ]);
}

function ok(name: string, detail: string): Check {
  return { name, status: 'ok', detail };
}
