/** The life of groups, the same for every layout. */
import { closeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import type { Cgroup, CgroupDriver, CgroupLayout, CgroupUsage, OomKills } from './cgroup.ts';
import type { ControlFiles } from './control-files.ts';
import { noOomKills, type Layout } from './layout.ts';
import { type CgroupLimits, checkLimits, type OptionalLimits } from './limits.ts';

const freezeTimeoutMs = 2000;
const removeTimeoutMs = 10_000;
const backOffMsMax = 50;

export class ManagedDriver implements CgroupDriver {
  readonly layout: CgroupLayout;
  readonly #files: ControlFiles;
  readonly #layout: Layout;
  readonly #groups = new Map<string, ManagedGroup>();
  #closed = false;

  constructor(
    layout: CgroupLayout,
    files: ControlFiles,
    open: (parent: string) => Layout,
    parent: string,
  ) {
    checkName(parent);
    this.layout = layout;
    this.#files = files;
    this.#layout = open(parent);
  }

  get optional(): OptionalLimits {
    return this.#layout.optional;
  }

  create(name: string, limits: CgroupLimits): Cgroup {
    checkName(name);
    checkLimits(limits, this.optional);
    if (this.#closed) throw failure('create', name, 'its driver is closed');
    if (this.#groups.has(name)) throw failure('create', name, 'the name is in use');
    const group = new ManagedGroup(this.#files, this.#layout, name, () =>
      this.#groups.delete(name),
    );
    group.make(limits);
    this.#groups.set(name, group);
    return group;
  }

  async removeAll(): Promise<void> {
    const names = new Set(this.#groups.keys());
    for (const parent of this.#layout.parents)
      for (const name of childrenOf(this.#files, parent)) names.add(name);
    await Promise.all(
      [...names].map((name) => {
        const group = this.#groups.get(name);
        const left = group ?? new ManagedGroup(this.#files, this.#layout, name, () => undefined);
        return left.remove();
      }),
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.removeAll();
    for (const parent of this.#layout.parents) removeIfPresent(this.#files, parent);
  }
}

class ManagedGroup implements Cgroup {
  readonly name: string;
  readonly #files: ControlFiles;
  readonly #layout: Layout;
  readonly #onRemoved: () => void;
  #joinFds: number[] = [];
  #limits: CgroupLimits | undefined;
  #oomKillsAtEnd: OomKills | undefined;
  #removal: Promise<void> | undefined;
  /** Whether a freeze was the last that was asked for. */
  #isToFreeze = false;

  constructor(files: ControlFiles, layout: Layout, name: string, onRemoved: () => void) {
    this.#files = files;
    this.#layout = layout;
    this.name = name;
    this.#onRemoved = onRemoved;
  }

  get joinFds(): readonly number[] {
    return this.#joinFds;
  }

  /** All or nothing: what was made is taken back when a step fails. */
  make(limits: CgroupLimits): void {
    const made: string[] = [];
    try {
      for (const path of this.#paths()) {
        makeEmptyGroup(this.#files, path);
        made.push(path);
      }
      this.#layout.writeLimits(this.name, limits, undefined);
      this.#limits = { ...limits };
      for (const path of made)
        this.#joinFds.push(this.#files.openForWriting(join(path, this.#layout.joinFile)));
    } catch (error) {
      this.closeJoinFds();
      for (const path of made) removeIfPresent(this.#files, path);
      throw failure('create', this.name, messageOf(error), error);
    }
  }

  closeJoinFds(): void {
    for (const fd of this.#joinFds.splice(0)) closeSync(fd);
  }

  setLimits(limits: CgroupLimits): void {
    checkLimits(limits, this.#layout.optional);
    this.#refuseRemoved();
    try {
      this.#layout.writeLimits(this.name, limits, this.#limits);
    } catch (error) {
      const { memoryBytes } = limits;
      const reason = isErrno(error, 'EBUSY')
        ? `more than ${memoryBytes} bytes of memory are in use`
        : messageOf(error);
      throw failure('limit', this.name, reason, error);
    }
    this.#limits = { ...limits };
  }

  kernelId(): bigint | undefined {
    this.#refuseRemoved();
    return this.#layout.kernelId(this.name);
  }

  usage(): CgroupUsage {
    this.#refuseRemoved();
    return this.#layout.usage(this.name);
  }

  oomKills(): OomKills {
    return this.#oomKillsAtEnd ?? this.#layout.oomKills(this.name);
  }

  async freeze(): Promise<void> {
    this.#refuseRemoved();
    this.#isToFreeze = true;
    this.#layout.freeze(this.name);
    const isSettled = (): boolean => !this.#isToFreeze || this.#layout.isFrozen(this.name);
    if (await pollUntil(freezeTimeoutMs, isSettled)) return;
    this.thaw();
    throw failure('freeze', this.name, `a process did not stop within ${freezeTimeoutMs} ms`);
  }

  thaw(): void {
    this.#refuseRemoved();
    this.#isToFreeze = false;
    this.#layout.thaw(this.name);
  }

  kill(): void {
    this.#refuseRemoved();
    this.#isToFreeze = false;
    this.#layout.kill(this.name);
  }

  pids(): number[] {
    this.#refuseRemoved();
    return [...this.#pidsLeft()];
  }

  async remove(): Promise<boolean> {
    const first = this.#removal === undefined;
    this.#removal ??= this.#removeNow();
    try {
      await this.#removal;
    } catch (error) {
      // A later call may try again.
      this.#removal = undefined;
      throw error;
    }
    return first;
  }

  async #removeNow(): Promise<void> {
    this.#isToFreeze = false;
    this.closeJoinFds();
    const removed = await pollUntil(removeTimeoutMs, () => this.#tryRemove());
    if (!removed) {
      const left = [...this.#pidsLeft()].join(', ');
      throw new HatchError(
        'host.cleanup_failed',
        `Cannot remove cgroup "${this.name}": processes outlive SIGKILL: ${left}`,
      );
    }
    this.#onRemoved();
  }

  #tryRemove(): boolean {
    this.#oomKillsAtEnd = this.#lastOomKills();
    const busy = this.#paths().filter((path) => !removeTree(this.#files, path));
    if (busy.length > 0) this.#layout.kill(this.name);
    return busy.length === 0;
  }

  /** The counter disappears with the group, so it is kept; a half-removed group has none. */
  #lastOomKills(): OomKills {
    try {
      return this.#layout.oomKills(this.name);
    } catch {
      return this.#oomKillsAtEnd ?? noOomKills;
    }
  }

  #pidsLeft(): Set<number> {
    const pids = new Set<number>();
    for (const path of this.#paths()) {
      for (const line of readProcesses(this.#files, path)) {
        const pid = Number(line);
        if (pid > 0) pids.add(pid);
      }
    }
    return pids;
  }

  #paths(): string[] {
    return this.#layout.parents.map((parent) => join(parent, this.name));
  }

  #refuseRemoved(): void {
    if (this.#removal !== undefined) throw failure('use', this.name, 'it was removed');
  }
}

/** Group names become paths: one plain component, and nothing that a kernel file is called. */
function checkName(name: string): void {
  if (/^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}$/.test(name)) return;
  throw new HatchError(
    'host.config_invalid',
    `Cannot name a cgroup "${name}": use letters, digits, "-" and "_", at most 128`,
  );
}

/** An empty group of that name is made anew, so that its counters and limits are fresh. */
function makeEmptyGroup(files: ControlFiles, path: string): void {
  try {
    files.makeGroup(path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    files.removeGroup(path);
    files.makeGroup(path);
  }
}

/** False while processes are in it. Groups that were made inside go first. */
function removeTree(files: ControlFiles, path: string): boolean {
  try {
    return removeIfPresent(files, path);
  } catch (error) {
    if (!isErrno(error, 'EBUSY', 'ENOTEMPTY')) throw error;
  }
  const inner = childrenOf(files, path);
  if (inner.length > 0 && inner.every((name) => removeTree(files, join(path, name))))
    return removeTree(files, path);
  return false;
}

function removeIfPresent(files: ControlFiles, path: string): true {
  try {
    files.removeGroup(path);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
  }
  return true;
}

function childrenOf(files: ControlFiles, path: string): string[] {
  try {
    return files.children(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

function readProcesses(files: ControlFiles, path: string): string[] {
  try {
    return files.read(join(path, 'cgroup.procs')).split('\n');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return [];
    throw error;
  }
}

/** Looks at once, then ever more rarely; false when the time is over. */
async function pollUntil(timeoutMs: number, condition: () => boolean): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  for (let waitMs = 1; ; waitMs = Math.min(waitMs * 2, backOffMsMax)) {
    if (condition()) return true;
    if (performance.now() >= deadline) return false;
    await delay(waitMs);
  }
}

function failure(action: string, name: string, reason: string, cause?: unknown): HatchError {
  return new HatchError('host.start_failed', `Cannot ${action} cgroup "${name}": ${reason}`, {
    cause,
  });
}
