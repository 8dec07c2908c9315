/**
 * What a test may leave on the machine: nothing. Take an inventory before, and assert afterwards
 * that all that is new is gone. Everything Hatchery makes has a name with the prefix `hatch`.
 *
 *     const before = takeInventory();
 *     after(() => assertNothingLeft(before));
 *
 * Network namespaces need no list of their own: what keeps one alive is a process, a mount (nsfs),
 * a name in /run/netns or a descriptor (`net:[inode]`), and all of these are in the inventory.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface InventoryOptions {
  /** Names of what is ours; a narrower one keeps tests that run at the same time apart. */
  prefix?: string;
  /** Further directories whose entries must be as before: state directories. */
  directories?: string[];
  /** Count mounts of any name: for whoever has a mount namespace of its own. */
  allMounts?: boolean;
  /** Ids of processes whose descendants are somebody else's. */
  exceptBelow?: number[];
  /** Count this process's descriptors; not for a runner, whose tests are other processes. */
  ownDescriptors?: boolean;
}

export interface Inventory {
  options: Required<InventoryOptions>;
  /** What tells one thing from another -> what to show of it. */
  things: Map<string, string>;
}

const repository = join(import.meta.dirname, '..', '..');
const commandCharsShown = 200;

/** Looks at mounts, cgroups, network names, nft tables, descriptors, processes and directories. */
export function takeInventory(options: InventoryOptions = {}): Inventory {
  const { prefix = 'hatch', directories = [], allMounts = false, ownDescriptors = true } = options;
  const { exceptBelow = [] } = options;
  const things = new Map([
    ...mounts(prefix, allMounts),
    ...cgroups(prefix),
    ...networks(prefix),
    ...processes(prefix, exceptBelow),
    ...paths(prefix, directories),
    ...(ownDescriptors ? descriptors() : []),
  ]);
  return { options: { prefix, directories, allMounts, exceptBelow, ownDescriptors }, things };
}

/** Waits up to `timeoutMs` for asynchronous teardown, then fails with a list of what is left. */
export async function assertNothingLeft(
  before: Inventory,
  { timeoutMs = 5000 }: { timeoutMs?: number } = {},
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  let left = leftSince(before);
  while (left.length > 0 && performance.now() < deadline) {
    await sleep(50);
    left = leftSince(before);
  }
  if (left.length > 0) assert.fail(`Clean up what is left behind:\n  ${left.join('\n  ')}`);
}

/** What is there now and was not there then, for callers that report it themselves. */
export function leftSince(before: Inventory): string[] {
  const { things } = takeInventory(before.options);
  return [...things].filter(([key]) => !before.things.has(key)).map(([, shown]) => shown);
}

type Things = Map<string, string>;

function mounts(prefix: string, allMounts: boolean): Things {
  const found: Things = new Map();
  for (const process of ['self', '1']) {
    for (const line of linesOf(`/proc/${process}/mountinfo`)) {
      const ours = isOurs(line, prefix) || (allMounts && process === 'self');
      const [id, , , , mountPoint] = line.split(' ');
      // The first `ip netns add` on a machine makes that directory a mount, for good.
      if (!ours || mountPoint === '/run/netns') continue;
      const type = line.split(' - ')[1] ?? '';
      found.set(`mount:${process}:${id}`, `mount ${mountPoint} (${type}) of process ${process}`);
    }
  }
  return found;
}

function cgroups(prefix: string): Things {
  const found: Things = new Map();
  for (const line of linesOf('/proc/self/mountinfo')) {
    const [left = '', right = ''] = line.split(' - ');
    if (!right.startsWith('cgroup')) continue;
    const root = left.split(' ')[4] ?? '';
    for (const path of descend(root)) {
      if (isOurs(path.slice(root.length), prefix)) found.set(`cgroup:${path}`, `cgroup ${path}`);
    }
  }
  return found;
}

/** Cgroups nest a few levels; their files are many, so only directories are followed. */
function* descend(directory: string): Generator<string> {
  const entries = attempt(() => readdirSync(directory, { withFileTypes: true })) ?? [];
  for (const entry of entries) {
    if (!entry.isDirectory()) continue;
    const path = join(directory, entry.name);
    yield path;
    yield* descend(path);
  }
}

function networks(prefix: string): Things {
  const found: Things = new Map();
  for (const name of namesIn('/run/netns', prefix)) {
    found.set(`netns:${name}`, `network namespace ${name}`);
  }
  for (const name of namesIn('/sys/class/net', prefix)) found.set(`link:${name}`, `link ${name}`);
  const nft = spawnSync('nft', ['list', 'tables'], { encoding: 'utf8' });
  // Without nft there is nothing in its tables that we could have made.
  for (const line of (nft.stdout ?? '').split('\n')) {
    if (isOurs(line, prefix)) found.set(`nft:${line}`, `nft ${line}`);
  }
  return found;
}

/** Our descendants, and whoever else shows by its command line or cgroup that it is ours. */
function processes(prefix: string, exceptBelow: readonly number[]): Things {
  const running = runningProcesses();
  // What has lost its parent is no longer below them: it shows by its name alone.
  for (const pid of exceptBelow) running.delete(pid);
  const found: Things = new Map();
  for (const [pid, { state, parent, startTicks, name }] of running) {
    const command = commandOf(pid);
    const cgroup = attempt(() => readFileSync(`/proc/${pid}/cgroup`, 'utf8')) ?? '';
    const ours = isOurs(command, prefix) || isOurs(cgroup, prefix) || isDescendant(pid, running);
    if (!ours || pid === process.pid) continue;
    const program = (command || name).slice(0, commandCharsShown);
    const shown = `process ${pid} (${state}, child of ${parent}): ${program}`;
    found.set(`process:${pid}:${startTicks}`, shown);
  }
  return found;
}

interface RunningProcess {
  name: string;
  state: string;
  parent: number;
  startTicks: string;
}

function runningProcesses(): Map<number, RunningProcess> {
  const running = new Map<number, RunningProcess>();
  for (const pid of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    const stat = attempt(() => readFileSync(`/proc/${pid}/stat`, 'utf8'));
    if (stat === undefined) continue;
    // The name in parentheses may hold anything: the fields after it are counted from its end.
    const end = stat.lastIndexOf(')');
    const [state = '', parent = '0', ...rest] = stat.slice(end + 2).split(' ');
    const startTicks = rest[17] ?? '';
    const name = stat.slice(stat.indexOf('(') + 1, end);
    running.set(Number(pid), { name, state, parent: Number(parent), startTicks });
  }
  return running;
}

/** Processes that this one has started and that run. */
export function runningChildren(): number[] {
  const running = [...runningProcesses()];
  return running.filter(([, { parent }]) => parent === process.pid).map(([pid]) => pid);
}

/** The repository may be in a directory with our prefix in its name: that makes nothing ours. */
function commandOf(pid: number): string {
  const raw = attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')) ?? '';
  return raw.replaceAll('\0', ' ').replaceAll(repository, '.').trim();
}

function isDescendant(pid: number, running: Map<number, RunningProcess>): boolean {
  let ancestor = running.get(pid)?.parent;
  while (ancestor !== undefined && ancestor !== process.pid) {
    ancestor = running.get(ancestor)?.parent;
  }
  return ancestor === process.pid;
}

function paths(prefix: string, directories: string[]): Things {
  const found = ['/tmp', '/run', '/var/lib', '/dev/shm'].flatMap((place) =>
    namesIn(place, prefix).map((name) => join(place, name)),
  );
  for (const directory of directories) {
    found.push(...namesIn(directory, '').map((name) => join(directory, name)));
  }
  return new Map(found.map((path) => [`path:${path}`, `path ${path}`]));
}

/** Sockets, pipes and namespaces are told apart by their inode, files by their path. */
function descriptors(): Things {
  const found: Things = new Map();
  for (const fd of readdirSync('/proc/self/fd')) {
    const target = attempt(() => readlinkSync(`/proc/self/fd/${fd}`));
    // The listing's own descriptor is closed by now.
    if (target !== undefined) found.set(`fd:${fd}:${target}`, `descriptor ${fd} -> ${target}`);
  }
  return found;
}

function namesIn(directory: string, prefix: string): string[] {
  return (attempt(() => readdirSync(directory)) ?? []).filter((name) => name.startsWith(prefix));
}

/** Whether the prefix begins a word: `/hatch-1/x` and `hatch:zygote`, but not `thatch`. */
function isOurs(text: string, prefix: string): boolean {
  for (let at = text.indexOf(prefix); at >= 0; at = text.indexOf(prefix, at + 1)) {
    if (at === 0 || !/[\w.-]/.test(text.charAt(at - 1))) return true;
  }
  return false;
}

function linesOf(path: string): string[] {
  const text = attempt(() => readFileSync(path, 'utf8')) ?? '';
  return text.split('\n').filter((line) => line !== '');
}

/** Processes, mounts and directories come and go while they are read. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
