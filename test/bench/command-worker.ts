/**
 * Starts Node.js by other means, in the same base image: in the open, with bubblewrap, runc, crun.
 * The clock runs from before the spawn until the first line of JavaScript has run, which is when a
 * worker could take its first call; how long until it has exited again is noted beside it.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmdirSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { serve } from './worker.ts';

export type CommandKind = 'node' | 'bwrap' | 'runc' | 'crun';

export interface Prepared {
  /** Why it cannot run here. */
  problem?: string;
  note?: string;
}

export interface CommandSample {
  readyMs: number;
  exitMs: number;
}

export interface Limits {
  memoryBytes: number;
  cpuCores: number;
  pidsMax: number;
}

/** `node -e 0` that says when it has got there. */
const script = "require('fs').writeSync(1,'.')";
const cgroupName = `hatch-bench-${process.pid}`;
const cgroup2Magic = 0x63677270;

let directory = '';
let sequence = 0;
let commandOf: (id: string) => string[] = () => [];

const handlers = {
  async prepare(options: {
    kind: CommandKind;
    directory: string;
    layers: string[];
    limits: Limits;
  }): Promise<Prepared> {
    const { kind, layers, limits } = options;
    directory = options.directory;
    const rootfs = join(directory, 'rootfs');
    mkdirSync(rootfs, { recursive: true });
    if (kind === 'node') {
      const binary = realpathSync(process.execPath);
      commandOf = () => [binary, '-e', script];
      return {};
    }
    const program = kind === 'bwrap' ? 'bwrap' : kind;
    if (spawnSync(program, ['--version']).status !== 0)
      return { problem: `${program} is not installed` };
    mountLayers(layers, rootfs);
    if (kind === 'bwrap') {
      commandOf = () => bwrapCommand(rootfs);
      return check('same namespaces, no limits: bubblewrap has none');
    }
    const hasLimits = kind === 'runc' || makeCgroup2Visible();
    writeBundle(rootfs, hasLimits ? limits : undefined);
    commandOf = (id) => [
      kind,
      '--root',
      join(directory, 'state'),
      'run',
      '--bundle',
      directory,
      id,
    ];
    return check(
      hasLimits
        ? 'same namespaces and limits, one shared root made ahead, no seccomp filter'
        : 'same namespaces, one shared root made ahead, no seccomp filter; without limits, ' +
            'since this crun wants pure cgroup v2 and the controllers here are on v1',
    );
  },

  async run({ count }: { count: number }): Promise<CommandSample[]> {
    const samples: CommandSample[] = [];
    for (let round = 0; round < count; round++) samples.push(await runOnce());
    return samples;
  },
};

export type CommandHandlers = typeof handlers;

serve(handlers, () => {
  removeCgroups();
  return Promise.resolve();
});

/** Proves that it runs at all; says what it said when it does not. */
async function check(note: string): Promise<Prepared> {
  try {
    await runOnce();
    return { note };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

async function runOnce(): Promise<CommandSample> {
  const [program = '', ...args] = commandOf(`${cgroupName}-${sequence++}`);
  const began = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let readyMs: number | undefined;
  let said = '';
  child.stdout.on('data', () => (readyMs ??= performance.now() - began));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const exited = once(child, 'exit').then(() => performance.now() - began);
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0 || readyMs === undefined)
    throw new Error(`${program} ended with ${code}: ${said.trim().slice(0, 300)}`);
  return { readyMs, exitMs: await exited };
}

/** One root for all of its runs: none of them has to pay for making one. */
function mountLayers(layers: string[], rootfs: string): void {
  for (const name of ['upper', 'work']) mkdirSync(join(directory, name));
  const options = [
    `lowerdir=${layers.toReversed().join(':')}`,
    `upperdir=${join(directory, 'upper')}`,
    `workdir=${join(directory, 'work')}`,
  ];
  mount(['-t', 'overlay', 'overlay', '-o', options.join(','), rootfs]);
}

function bwrapCommand(rootfs: string): string[] {
  const isolation = '--unshare-all --die-with-parent --new-session --clearenv';
  const mounts = `--bind ${rootfs} / --proc /proc --dev /dev --tmpfs /tmp`;
  const command = '--uid 1000 --gid 1000 -- /usr/local/bin/node -e';
  return ['bwrap', ...[isolation, mounts, command].join(' ').split(' '), script];
}

/** True when there are controllers for the limits. */
function makeCgroup2Visible(): boolean {
  if (statfsSync('/sys/fs/cgroup').type !== cgroup2Magic)
    mount(['-t', 'cgroup2', 'cgroup2', '/sys/fs/cgroup']);
  const controllers = readFileSync('/sys/fs/cgroup/cgroup.controllers', 'utf8').trim().split(' ');
  return ['cpu', 'memory', 'pids'].every((name) => controllers.includes(name));
}

function mount(args: string[]): void {
  const { status, stderr } = spawnSync('mount', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`mount ${args.join(' ')}: ${stderr}`);
}

/** What our containers have, in the words of the OCI runtime specification. */
function writeBundle(rootfs: string, limits: Limits | undefined): void {
  const mapping = [{ containerID: 0, hostID: 200_000_000, size: 65_536 }];
  const tmpfs = ['nosuid', 'nodev', 'mode=1777', 'size=67108864'];
  const period = 100_000;
  const resources = limits && {
    memory: { limit: limits.memoryBytes },
    cpu: { quota: Math.round(limits.cpuCores * period), period },
    pids: { limit: limits.pidsMax },
  };
  const config = {
    ociVersion: '1.0.2',
    hostname: 'hatch-bench',
    process: {
      terminal: false,
      user: { uid: 1000, gid: 1000 },
      args: ['/usr/local/bin/node', '-e', script],
      env: ['PATH=/usr/local/bin:/usr/bin:/bin'],
      cwd: '/',
      noNewPrivileges: true,
      capabilities: { bounding: [], effective: [], permitted: [], ambient: [] },
    },
    root: { path: rootfs, readonly: false },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
      { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: tmpfs },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: tmpfs },
    ],
    linux: {
      cgroupsPath: `/${cgroupName}/run`,
      ...(resources === undefined ? {} : { resources }),
      uidMappings: mapping,
      gidMappings: mapping,
      namespaces: ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup', 'user'].map((type) => ({
        type,
      })),
    },
  };
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
}

/** The runtimes remove a container's group and leave its parent. */
function removeCgroups(): void {
  const roots = [
    '/sys/fs/cgroup',
    ...readdirSync('/sys/fs/cgroup').map((one) => `/sys/fs/cgroup/${one}`),
  ];
  for (const group of roots.map((root) => join(root, cgroupName)))
    if (existsSync(group)) rmdirSync(group);
}
