/**
 * Starts Node.js by other means, in the same base image: in the open, with bubblewrap, runc, crun.
 * What ours is compared with does what ours does: each start gets a root of its own over the shared
 * layers, and the clock runs until the function is loaded and could take its first call. In the
 * open it runs until the first line of JavaScript. How long until it has exited again is noted.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { bundleFunction } from '../../host/function/bundle.ts';
import { readManifest } from '../../host/function/manifest.ts';
import { mountOverlay } from '../../host/storage/overlay-mount.ts';
import { attachMount, detachMount } from '../../host/sys/mount.ts';
import { ociConfig, type Limits } from './oci-bundle.ts';
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

/** `node -e 0` that says when it has got there. */
const script = "require('fs').writeSync(1,'.')";
/** A worker that has loaded the function and listens for its calls, until there can be no more. */
const workerScript = (entry: string): string => `
  const { handler } = require('${entry}');
  process.stdin.on('data', (event) => console.log(handler(JSON.parse(event)).greeting));
  ${script}`;
const cgroupName = `hatch-bench-${process.pid}`;
const cgroup2Magic = 0x63677270;

const hello = join(import.meta.dirname, '../../functions/hello');

let directory = '';
let sequence = 0;
let commandOf: (id: string) => string[] = () => [];
/** Bottom first; none for what needs no root. */
let lowerDirectories: string[] = [];

const handlers = {
  async prepare(options: {
    kind: CommandKind;
    directory: string;
    layers: string[];
    limits: Limits;
  }): Promise<Prepared> {
    const { kind, layers, limits } = options;
    directory = options.directory;
    if (kind === 'node') {
      const binary = realpathSync(process.execPath);
      commandOf = () => [binary, '-e', script];
      return {};
    }
    if (spawnSync(kind, ['--version']).status !== 0) return { problem: `${kind} is not installed` };
    mkdirSync(rootfs());
    const { layer, entryPath } = await unpackFunction();
    lowerDirectories = [...layers, layer];
    const command = ['/usr/local/bin/node', '-e', workerScript(entryPath)];
    if (kind === 'bwrap') {
      commandOf = () => bwrapCommand(command);
      return check('same namespaces; bubblewrap has no limits, and no filter was given');
    }
    const hasLimits = kind === 'runc' || makeCgroup2Visible();
    const cgroupsPath = `/${cgroupName}/run`;
    const given = hasLimits ? limits : undefined;
    const config = ociConfig({ rootfs: rootfs(), command, cgroupsPath, limits: given });
    writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
    const state = join(directory, 'state');
    commandOf = (id) => [kind, '--root', state, 'run', '--bundle', directory, id];
    return check(
      hasLimits
        ? 'same namespaces, limits and seccomp profile'
        : 'same namespaces and seccomp profile; without limits, since this crun wants pure ' +
            'cgroup v2 and the controllers here are on v1',
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
  const id = `${cgroupName}-${sequence++}`;
  const [program = '', ...args] = commandOf(id);
  const isContained = lowerDirectories.length > 0;
  const began = performance.now();
  if (isContained) mountRoot(id);
  const child = spawn(program, args, { stdio: 'pipe' });
  let readyMs: number | undefined;
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    if (readyMs !== undefined) return;
    readyMs = performance.now() - began;
    child.stdin.end('{"name":"bench"}');
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const exited = once(child, 'exit').then(() => performance.now() - began);
  const [code] = (await once(child, 'close')) as [number | null];
  if (isContained) unmountRoot(id);
  if (code !== 0 || readyMs === undefined || (isContained && !said.includes('Hello, bench!')))
    throw new Error(`${program} ended with ${code}: ${said.trim().slice(0, 300)}`);
  return { readyMs, exitMs: await exited };
}

function rootfs(): string {
  return join(directory, 'rootfs');
}

/** As our own storage driver does it. */
function mountRoot(id: string): void {
  const scratch = join(directory, id);
  for (const name of ['', 'upper', 'work']) mkdirSync(join(scratch, name));
  const mountFd = mountOverlay({
    directory: scratch,
    lowerDirectories,
    lowerOption: 'list',
    persistent: true,
  });
  attachMount(mountFd, rootfs());
  closeSync(mountFd);
}

function unmountRoot(id: string): void {
  detachMount(rootfs());
  rmSync(join(directory, id), { recursive: true });
}

async function unpackFunction(): Promise<{ layer: string; entryPath: string }> {
  const outputDirectory = join(directory, 'bundle');
  const layer = join(directory, 'layer');
  for (const path of [outputDirectory, layer]) mkdirSync(path);
  const manifest = await readManifest(hello);
  const { layerFile, entryPath } = await bundleFunction({
    directory: hello,
    manifest,
    outputDirectory,
  });
  execFileSync('tar', ['-xzf', layerFile, '-C', layer]);
  return { layer, entryPath };
}

function bwrapCommand(command: readonly string[]): string[] {
  const isolation = '--unshare-all --die-with-parent --new-session --clearenv';
  const mounts = `--bind ${rootfs()} / --proc /proc --dev /dev --tmpfs /tmp`;
  const user = '--uid 1000 --gid 1000 --';
  return ['bwrap', ...[isolation, mounts, user].join(' ').split(' '), ...command];
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

/** The runtimes remove a container's group and leave its parent. */
function removeCgroups(): void {
  const roots = [
    '/sys/fs/cgroup',
    ...readdirSync('/sys/fs/cgroup').map((one) => `/sys/fs/cgroup/${one}`),
  ];
  for (const group of roots.map((root) => join(root, cgroupName)))
    if (existsSync(group)) rmdirSync(group);
}
