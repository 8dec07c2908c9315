/** How many containers to keep parked for each trust class, within what the host keeps at all. */
import { defaultTrustClass, trustKey, type TrustClass } from '../zygote/trust-class.ts';
import type { ParkedWish } from './parked-containers.ts';
import { ParkedTarget } from './policy/parked-target.ts';
import type { PoolFunction } from './pool-function.ts';

export interface ParkedLimits {
  /** Containers to keep parked for the default class, besides what functions ask for. */
  parked: number;
  /** As many when calls come fast; without any to keep there are none then either. */
  parkedMax: number;
}

interface Demand extends TrustClass {
  target: ParkedTarget;
  /** What there is without any demand. */
  least: number;
  /** Of that, what functions have asked for. */
  reserved: number;
}

export class ParkedTargets {
  readonly #limits: ParkedLimits;
  readonly #demands = new Map<string, Demand>();

  constructor(limits: ParkedLimits) {
    this.#limits = limits;
  }

  /** An instance of that class was started. */
  started(trust: TrustClass, nowMs: number): void {
    this.#demandOf(trust).target.started(nowMs);
  }

  /**
   * `roomFor` so many in all. The default class comes first, and what is forgotten of others is
   * that they were needed.
   */
  wishes(functions: Iterable<PoolFunction>, nowMs: number, roomFor = Infinity): ParkedWish[] {
    const { parked, parkedMax } = this.#limits;
    const keys = new Set([trustKey(defaultTrustClass)]);
    for (const demand of this.#demands.values()) Object.assign(demand, { least: 0, reserved: 0 });
    this.#demandOf(defaultTrustClass).least = parked;
    for (const fn of functions) {
      keys.add(trustKey(fn));
      const demand = this.#demandOf(fn);
      demand.least += fn.parked;
      demand.reserved += fn.parked;
    }
    for (const key of this.#demands.keys()) if (!keys.has(key)) this.#demands.delete(key);
    const asked = [...this.#demands.values()].reduce((sum, { least }) => sum + least, 0);
    let more = asked === 0 ? 0 : Math.max(parkedMax - asked, 0);
    let left = roomFor;
    return [...this.#demands.values()].map(({ tenant, isolation, target, least, reserved }) => {
      // One that executes is two processes with memory of their own: only as many as are asked for.
      const max = least + (isolation === 'exec' ? 0 : more);
      const wanted = target.target(nowMs, { min: least, max });
      more -= wanted - least;
      const count = Math.min(wanted, left);
      left -= count;
      return { trust: { tenant, isolation }, count, reserved };
    });
  }

  #demandOf(trust: TrustClass): Demand {
    const key = trustKey(trust);
    let demand = this.#demands.get(key);
    if (demand === undefined) {
      const { tenant, isolation } = trust;
      demand = { tenant, isolation, target: new ParkedTarget(), least: 0, reserved: 0 };
      this.#demands.set(key, demand);
    }
    return demand;
  }
}
