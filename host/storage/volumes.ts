/**
 * Volumes: directories that outlive instances and hosts, one for each tenant, function and name, on
 * a file system that checks what it reads. What a function fsyncs there is on the disk.
 *
 *     const volumes = Volumes.open(stateDirectory);
 *     const release = await volumes.hold([volume]);       // as long as a version of it is loaded
 *     const mountFd = volumes.mount(volume, userNamespaceFd); // for each start
 *
 * All instances of the function on this host share the same directory, and write to it at the same
 * time. Nothing of it is removed but by `remove`.
 */
import { mkdirSync, readdirSync, rmdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import { functionUser } from '../base/function-user.ts';
import { isErrno } from '../sys/errors.ts';
import { cloneMount, mountAttribute, setMountAttributes } from '../sys/mount.ts';
import { openBtrfsVolumes } from './btrfs-volumes.ts';

/** Whose it is, and what it is called. Each is a name without dots and slashes. */
export interface VolumeId {
  tenant: string;
  functionName: string;
  name: string;
}

export interface Volume extends VolumeId {
  sizeBytes: number;
}

export interface VolumeUsage {
  usedBytes: number;
  /** Undefined until an instance had it. */
  limitBytes: number | undefined;
}

/** What a file system with checksums does for volumes; each is a directory at the path given. */
export interface VolumeDriver {
  /** Resolves once it is on the disk: empty, of that owner as the mount's map has it inside. */
  make(path: string, owner: { uid: number; gid: number }): Promise<void>;
  /** What is written beyond fails with `EDQUOT` or `ENOSPC`. Synchronous: each start calls it. */
  limit(path: string, sizeBytes: number): void;
  usage(path: string): VolumeUsage;
  /** With all that is in it. */
  remove(path: string): Promise<void>;
}

/** A further file system is a line here. Each gives undefined where the directory is not on it. */
const drivers: readonly ((directory: string) => VolumeDriver | undefined)[] = [openBtrfsVolumes];

const { noSuid, noDev, noExec } = mountAttribute;
export const volumesMaxOfHost = 1024;
const volumesMaxOfTenant = 256;
/** Instances of a removed function may still be ending. */
const releaseLimitMs = 10_000;

/** Versions that are loaded here and have the volume. */
interface Holders {
  count: number;
  none: PromiseWithResolvers<void>;
}

export class Volumes {
  readonly #stateDirectory: string;
  readonly #directory: string;
  readonly #driver: VolumeDriver | undefined;
  /** By path, as the next. */
  readonly #holders = new Map<string, Holders>();
  /** The same one is made and removed by one at a time. */
  readonly #turns = new Map<string, Promise<unknown>>();

  private constructor(stateDirectory: string) {
    this.#stateDirectory = stateDirectory;
    this.#directory = join(stateDirectory, 'volumes');
    this.#driver = drivers.map((open) => open(stateDirectory)).find((one) => one !== undefined);
  }

  /** Where none can be had, `hold` refuses. */
  static open(stateDirectory: string): Volumes {
    return new Volumes(stateDirectory);
  }

  /**
   * Makes what is missing; none of them is removed until what this resolves with is called, once.
   *
   * @throws HatchError `host.unsupported` without a file system for it; `host.busy` at the limit
   */
  async hold(volumes: readonly VolumeId[]): Promise<() => void> {
    const held: string[] = [];
    const release = (): void => held.splice(0).forEach((path) => this.#release(path));
    try {
      for (const volume of volumes) {
        const driver = this.#requireDriver(volume);
        const path = this.#pathOf(volume);
        this.#hold(path);
        held.push(path);
        await this.#inTurn(path, () => this.#make(driver, volume));
      }
    } catch (error) {
      release();
      throw error;
    }
    return release;
  }

  /**
   * The volume as a detached mount, its ids by the map of a user namespace; the caller closes it.
   * Its limit is from now on what this start says.
   *
   * @throws HatchError `host.start_failed` when it is gone
   */
  mount(volume: Volume, userNamespaceFd: number): number {
    const path = this.#pathOf(volume);
    try {
      this.#requireDriver(volume).limit(path, volume.sizeBytes);
      const mountFd = cloneMount({ path, recursive: false });
      setMountAttributes(mountFd, { attributes: noSuid | noDev | noExec, userNamespaceFd });
      return mountFd;
    } catch (cause) {
      const message = `Cannot mount volume "${volume.name}": ${messageOf(cause)}`;
      throw new HatchError('host.start_failed', message, { cause });
    }
  }

  /** Whether the state directory's file system is one for them. */
  get offered(): boolean {
    return this.#driver !== undefined;
  }

  /** All of this host, in the order of their names. */
  list(): (VolumeId & VolumeUsage)[] {
    const driver = this.#driver;
    if (driver === undefined) return [];
    return this.#ids().map((id) => ({ ...id, ...driver.usage(this.#pathOf(id)) }));
  }

  /**
   * Whether there was one.
   *
   * @throws HatchError `volume.in_use` when it stays held
   */
  async remove(volume: VolumeId): Promise<boolean> {
    const path = this.#pathOf(volume);
    const holders = this.#holders.get(path);
    if (holders !== undefined) await withinMs(holders.none.promise, releaseLimitMs);
    return this.#inTurn(path, async () => {
      if (this.#holders.has(path)) throw inUse(volume);
      if (this.#driver === undefined || !namesIn(dirname(path)).includes(volume.name)) return false;
      await this.#driver.remove(path);
      removeEmpty(dirname(path));
      removeEmpty(dirname(dirname(path)));
      return true;
    });
  }

  async #make(driver: VolumeDriver, volume: VolumeId): Promise<void> {
    const path = this.#pathOf(volume);
    const { tenant, name } = volume;
    if (namesIn(dirname(path)).includes(name)) return;
    const all = this.#ids();
    if (all.length >= volumesMaxOfHost) throw tooMany(volume, `this host has ${volumesMaxOfHost}`);
    if (all.filter((one) => one.tenant === tenant).length >= volumesMaxOfTenant)
      throw tooMany(volume, `tenant "${tenant}" has ${volumesMaxOfTenant} on this host`);
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    await driver.make(path, functionUser);
  }

  #ids(): VolumeId[] {
    return namesIn(this.#directory).flatMap((tenant) =>
      namesIn(join(this.#directory, tenant)).flatMap((functionName) =>
        namesIn(join(this.#directory, tenant, functionName)).map((name) => {
          return { tenant, functionName, name };
        }),
      ),
    );
  }

  #hold(path: string): void {
    const holders = this.#holders.get(path) ?? { count: 0, none: Promise.withResolvers<void>() };
    holders.count++;
    this.#holders.set(path, holders);
  }

  #release(path: string): void {
    const holders = this.#holders.get(path);
    if (holders === undefined || --holders.count > 0) return;
    this.#holders.delete(path);
    holders.none.resolve();
  }

  async #inTurn<T>(path: string, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(path);
    const mine = Promise.resolve(before).then(work, work);
    this.#turns.set(path, mine);
    try {
      return await mine;
    } finally {
      if (this.#turns.get(path) === mine) this.#turns.delete(path);
    }
  }

  #pathOf({ tenant, functionName, name }: VolumeId): string {
    return join(this.#directory, tenant, functionName, name);
  }

  #requireDriver({ functionName }: Pick<VolumeId, 'functionName'>): VolumeDriver {
    if (this.#driver !== undefined) return this.#driver;
    throw new HatchError(
      'host.unsupported',
      `Cannot offer the volumes of "${functionName}": the state directory ` +
        `"${this.#stateDirectory}" is on no file system with checksums; put it on btrfs ` +
        '(--state-directory), or deploy without "volumes"',
    );
  }
}

function tooMany({ name }: VolumeId, what: string): HatchError {
  const advice = 'remove some with "hatch volume rm"';
  return new HatchError('host.busy', `Cannot make volume "${name}": ${what} already; ${advice}`);
}

function inUse({ name, functionName }: VolumeId): HatchError {
  return new HatchError(
    'volume.in_use',
    `Cannot remove volume "${name}": a version of function "${functionName}" that has it is ` +
      'being deployed here, or its calls have not ended; try again later',
  );
}

async function withinMs(promise: Promise<void>, limitMs: number): Promise<void> {
  const timer = new AbortController();
  const late = sleep(limitMs, undefined, { signal: timer.signal }).catch(() => undefined);
  await Promise.race([promise, late]);
  timer.abort();
}

/** What is being made has a dot before its name. */
function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => !name.startsWith('.'))
      .toSorted();
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

function removeEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY')) throw error;
  }
}
