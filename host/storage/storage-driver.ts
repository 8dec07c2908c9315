/**
 * One writable root from read-only layers.
 *
 * A **lower** directory is an unpacked layer; any number of roots share it and none ever changes
 * it. The **upper** directory takes what one root's processes write. The **root** is both seen as
 * one tree: a mount that is attached nowhere, held by a descriptor.
 *
 * The life of a root:
 *
 *     const layers = await driver.prepare([base, node]);
 *     const root = driver.createRoot({ id: 'a1', lowerDirectories: [base, node], ownerUid: 100000,
 *       ownerGid: 100000 });
 *     sendToSandbox(root.mountFd);   // the sandbox attaches it in its own mount namespace
 *     root.closeMount();             // the sandbox's mount lives on without our descriptor
 *     …                              // upperDirectory shows what was written, copy-ups included
 *     await root.destroy();          // after the sandbox's last process is gone
 *     layers.release();              // no more roots of them
 *
 * What every driver promises, checked by `test/contract/storage.ts`:
 *
 * - `createRoot` is synchronous and leaves nothing behind when it throws.
 * - Each root starts as the lowers alone: no byte of another root is ever seen in it.
 * - Lowers are only read: a write, a deletion or a change of owner lands in the upper.
 * - A directory of a lower is renamed as a whole, or not at all: `EXDEV`, as between two mounts.
 * - The root directory belongs to `ownerUid:ownerGid` and has mode 0755.
 * - Whiteouts and opaque directories of a layer hide what the layers below it hold.
 * - Set-user-id bits and device files have no effect in a root.
 */
import { HatchError, messageOf } from '../base/errors.ts';

export interface StorageDriver {
  readonly name: StorageName;
  /**
   * Whether roots show owners by the map of `userNamespaceFd`: then lowers are to be given as they
   * are stored. Otherwise they are to be given through a mount that maps them.
   */
  readonly mapsOwners: boolean;
  /** Whether roots read the files of layers themselves: what is in memory of those serves all. */
  readonly readsLayers: boolean;
  /**
   * Does ahead what roots of these lowers have in common. It is needed before the first of them,
   * and kept until released; twice is fine.
   *
   * @throws HatchError `host.start_failed`; nothing is left then.
   */
  prepare(lowerDirectories: readonly string[]): Promise<PreparedLayers>;
  /**
   * Makes a fresh root.
   *
   * @throws HatchError `internal.bug` when a root of that id exists; `host.unsupported` when the
   *   kernel cannot join that many layers; `host.start_failed` for what the kernel refuses else.
   */
  createRoot(request: RootRequest): WritableRoot;
  /**
   * Removes what an earlier run of this host left behind. Call it before the first `createRoot`.
   */
  removeAll(): Promise<void>;
  /** Ends when all background work has, and gives back what the driver keeps ready. */
  close(): Promise<void>;
}

/** What a function can ask for. */
export type StorageName = 'overlay' | 'btrfs' | 'zfs';

export interface PreparedLayers {
  /** Roots that are there stay. Call it once. */
  release(): void;
}

export interface RootRequest {
  /** Unique among the roots that are alive. */
  id: string;
  /** At least one, bottom first. Owners of their files are shown as they are. */
  lowerDirectories: readonly string[];
  /** As the host sees it: the container's own uid 0 is the base of its range. */
  ownerUid: number;
  ownerGid: number;
  /** For drivers that map owners: its id 0 is `ownerUid:ownerGid`. Without it none is mapped. */
  userNamespaceFd?: number;
  /**
   * What may be written, when it differs from the driver's setting: `ENOSPC` beyond, or `EDQUOT`
   * where a quota is counted, except on xfs. Refused by drivers that cannot limit.
   */
  sizeBytes?: number;
}

export interface WritableRoot {
  readonly id: string;
  /** The root, detached and close-on-exec; invalid after `closeMount` or `destroy`. */
  readonly mountFd: number;
  readonly lowerDirectories: readonly string[];
  /** Whether the first write to a file of a lower copies all of it up, marked (`origin.ts`). */
  readonly copiesUp: boolean;
  /**
   * Where what was written is, as a path for this process only; without what the lowers have,
   * where the driver copies up.
   *
   * @throws HatchError `internal.bug` once the root is destroyed.
   */
  readonly upperDirectory: string;
  /** Gives up our own hold on the mount; what has attached it keeps it. Twice is fine. */
  closeMount(): void;
  /**
   * Frees all that was written, in the background. Twice is fine: both wait for the same end.
   * Rejects when something could not be removed: `removeAll` of the next run tries again.
   */
  destroy(): Promise<void>;
}

/** Why a root could not be made. */
export function rootError(id: string, error: unknown): HatchError {
  if (error instanceof HatchError) return error;
  return new HatchError('host.start_failed', `Cannot create root "${id}": ${messageOf(error)}`, {
    cause: error,
  });
}
