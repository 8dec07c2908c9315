/**
 * Who may have an instance. There is so much memory, and so many instances at most; when that is
 * given out, idle instances make room, by the policy of greedy-dual.ts. Busy ones never do.
 */
import { HatchError } from '../base/errors.ts';
import type { FunctionPool } from './function-pool.ts';
import type { FunctionProfile } from './function-profile.ts';
import type { Instance } from './instance.ts';
import { MemoryBudget } from './memory-budget.ts';
import { chooseVictims, GreedyDual, type EvictionCandidate } from '../base/greedy-dual.ts';

export interface RoomOptions {
  memoryBytesMax: number;
  instancesMax: number;
  pools: () => readonly FunctionPool[];
}

/** What a container takes; bytes. */
export interface ContainerBytes {
  /** While it waits for a function, all of it. */
  parked: number;
  /** Of any, what its own group is not charged for. */
  paidByHost: number;
}

/** The room of an instance that is being made. */
export type Grant = { readonly profile: FunctionProfile };

interface Idle extends EvictionCandidate {
  instance: Instance;
}

const MiB = 2 ** 20;
/** Reading one takes some 0.03 ms. */
const measurementsMax = 32;

export class Room {
  readonly #options: RoomOptions;
  readonly #budget: MemoryBudget<Grant | Instance>;
  readonly #policy = new GreedyDual();
  /** In the order of their last measurement. */
  readonly #profiles = new Map<Instance, FunctionProfile>();
  #containerBytes: ContainerBytes = { parked: 0, paidByHost: 0 };

  constructor(options: RoomOptions) {
    this.#options = options;
    this.#budget = new MemoryBudget(options.memoryBytesMax);
  }

  get clock(): number {
    return this.#policy.clock;
  }

  get usedBytes(): number {
    return this.#budget.usedBytes;
  }

  /** Measured anew: from now on what starts is charged so, and the rest when it is measured. */
  set containerBytes(bytes: ContainerBytes) {
    this.#containerBytes = bytes;
  }

  /** Bytes of so many parked containers. */
  parkedBytes(count: number): number {
    return count * this.#containerBytes.parked;
  }

  /** How many containers may be parked in what instances leave: they never take a call's room. */
  get parkedMax(): number {
    const { parked } = this.#containerBytes;
    if (parked === 0) return Infinity;
    return Math.floor(Math.max(this.#budget.totalBytes - this.usedBytes, 0) / parked);
  }

  /**
   * Resolves when there is room, also for what the start takes besides. Rejects with `host.busy`
   * when there is not, and what is idle is not enough or may not go.
   */
  async take(
    profile: FunctionProfile,
    { evicts, besidesBytes }: { evicts: boolean; besidesBytes: number },
  ): Promise<Grant> {
    const bytes = this.#bytesOf(profile) + besidesBytes;
    const victims = this.#victimsFor(bytes);
    if (victims === undefined || (!evicts && victims.length > 0)) throw this.#busy(bytes);
    // At once: whoever else wants room must neither choose the same victims nor find theirs free.
    const grant: Grant = { profile };
    this.#budget.charge(grant, bytes);
    await this.#evict(victims);
    return grant;
  }

  /** What is taken besides instances: the zygotes of single tenants. */
  reserve(bytes: number): void {
    this.#budget.reserve(bytes);
  }

  /** The instance is made, and measured from now on until it has ended. */
  settle(grant: Grant, instance: Instance): void {
    const { profile } = grant;
    this.free(grant);
    this.#profiles.set(instance, profile);
    if (profile.memoryKnown) {
      // The kernel takes a tenth of a start to tell: the call that waits goes first.
      this.#budget.charge(instance, this.#bytesOf(profile));
      setImmediate(() => this.#profiles.has(instance) && this.#measure(instance, profile));
    } else this.#measure(instance, profile);
    void instance.sandbox.ended.then(() => this.#forget(instance));
  }

  free(grant: Grant): void {
    this.#budget.release(grant);
  }

  /** Charges what instances take by now: those that were not looked at for longest. */
  measure(): void {
    for (const [instance, profile] of [...this.#profiles].slice(0, measurementsMax)) {
      this.#profiles.delete(instance);
      this.#profiles.set(instance, profile);
      this.#measure(instance, profile);
    }
  }

  /** Ends idle instances until that share of their memory is given back. */
  async giveBack(share: number): Promise<void> {
    if (share <= 0) return;
    const idle = this.#idle();
    const bytes = idle.reduce((sum, one) => sum + one.bytes, 0);
    await this.#evict(chooseVictims(idle, bytes * share) ?? []);
  }

  #victimsFor(bytes: number): Idle[] | undefined {
    const missingBytes = this.#budget.missing(bytes);
    const isFull = this.#budget.count >= this.#options.instancesMax;
    if (missingBytes === 0 && !isFull) return [];
    const idle = this.#idle();
    const victims = chooseVictims(idle, missingBytes);
    return isFull && victims?.length === 0 ? chooseVictims(idle, 1) : victims;
  }

  #idle(): Idle[] {
    return this.#options.pools().flatMap((pool) => {
      const { demand, startMs } = pool.profile;
      const idle = pool.idleInstances();
      return idle.map((instance, at) => {
        const bytes = Math.max(this.#budget.chargeOf(instance), 1);
        // The one that has been idle for longest is the last that calls would take.
        const use = demand.use(demand.busy + idle.length - at);
        return {
          instance,
          bytes,
          priority: this.#policy.priority(use, { costMs: startMs, bytes }),
        };
      });
    });
  }

  async #evict(victims: readonly Idle[]): Promise<void> {
    await Promise.all(
      victims.map(({ instance, priority }) => {
        this.#policy.evicted(priority);
        this.#forget(instance);
        return instance.sandbox.destroy();
      }),
    );
  }

  #measure(instance: Instance, profile: FunctionProfile): void {
    // One that is ending has nothing to read any more, and is forgotten in a moment.
    if (!instance.sandbox.alive) return;
    const bytes = instance.sandbox.memoryInUse();
    profile.measuredMemory(bytes);
    this.#budget.charge(instance, bytes + this.#containerBytes.paidByHost);
  }

  /** What one more instance takes; a function whose limit is the whole budget may have that. */
  #bytesOf(profile: FunctionProfile): number {
    const bytes = profile.memoryBytes + this.#containerBytes.paidByHost;
    return Math.min(bytes, this.#budget.totalBytes);
  }

  #forget(instance: Instance): void {
    this.#budget.release(instance);
    this.#profiles.delete(instance);
  }

  #busy(bytes: number): HatchError {
    const { count, usedBytes, totalBytes } = this.#budget;
    const mib = (size: number): number => Math.ceil(size / MiB);
    return new HatchError(
      'host.busy',
      `The host has no room for ${mib(bytes)} MiB more: its ${count} instances ` +
        `take ${mib(usedBytes)} of ${mib(totalBytes)} MiB, and too few of them are idle`,
    );
  }
}
