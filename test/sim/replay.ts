/**
 * A pool without containers: it hands out, keeps, ends and pre-warms instances as the host does,
 * with the host's own policies, and counts what that costs.
 */
import { chooseVictims } from '../../host/base/greedy-dual.ts';
import { InstanceDemand, type KeepAlivePolicy } from '../../host/pool/policy/instance-demand.ts';
import { ParkedTarget } from '../../host/pool/policy/parked-target.ts';
import { decode, type Event, type Timeline } from './arrivals.ts';
import type { TraceFunction } from './trace.ts';

/** Measured; milliseconds. */
export interface StartCosts {
  parked: number;
  forked: number;
}

/** The order in which idle instances are given back. */
export interface VictimRule {
  readonly clock?: number;
  /** Of the n-th instance of a function, n of which are there; the least goes first. */
  priority(candidate: Candidate): number;
  evicted?(priority: number): void;
  /** A call has begun, the n-th that runs at the same time. */
  called?(functionIndex: number, n: number): void;
}

export interface Candidate {
  functionIndex: number;
  n: number;
  demand: InstanceDemand;
  nowMs: number;
}

export interface ReplayOptions {
  keepAlive: KeepAlivePolicy;
  /** Of busy and idle instances together; Infinity for no cap. */
  capMb: number;
  victims: VictimRule;
  costs: StartCosts;
}

export interface ReplayResult {
  calls: number;
  /** Calls that waited for a start, those refused for want of memory included. */
  cold: number;
  parkedStarts: number;
  refused: number;
  prewarmed: number;
  evicted: number;
  /** Memory of instances without a call, over time. */
  idleGbHours: number;
  peakMb: number;
  penaltyMs: number;
}

interface FunctionState {
  fn: TraceFunction;
  demand: InstanceDemand;
  live: number;
  /** Calls that run without an instance, having been refused. */
  refused: number;
}

/** As the host looks over its pool, and as it is configured by default. */
const sweepMs = 1000;
const parkedLimits = { min: 4, max: 64 };
const refillsPerSecond = 200;

export function replay(timeline: Timeline, options: ReplayOptions): ReplayResult {
  const pool = new ReplayedPool(timeline.functions, options);
  let sweepAtMs = sweepMs;
  for (const key of timeline.events) {
    const event = decode(key);
    if (event.timeMs >= timeline.endMs) break;
    for (; sweepAtMs <= event.timeMs; sweepAtMs += sweepMs) pool.sweep(sweepAtMs);
    pool.play(event);
  }
  for (; sweepAtMs <= timeline.endMs; sweepAtMs += sweepMs) pool.sweep(sweepAtMs);
  return pool.result;
}

class ReplayedPool {
  readonly #options: ReplayOptions;
  readonly #functions: FunctionState[];
  readonly #parked = new ParkedTarget();
  #parkedCount = parkedLimits.min;
  #usedMb = 0;
  #idleMb = 0;
  #idleMbMs = 0;
  #nowMs = 0;
  readonly #counts = {
    calls: 0,
    cold: 0,
    parkedStarts: 0,
    refused: 0,
    prewarmed: 0,
    evicted: 0,
    peakMb: 0,
    penaltyMs: 0,
  };

  constructor(functions: readonly TraceFunction[], options: ReplayOptions) {
    this.#options = options;
    this.#functions = functions.map((fn) => {
      const demand = new InstanceDemand(options.keepAlive);
      return { fn, demand, live: 0, refused: 0 };
    });
  }

  get result(): ReplayResult {
    return { ...this.#counts, idleGbHours: this.#idleMbMs / 1024 / 3_600_000 };
  }

  play({ timeMs, functionIndex, isStart }: Event): void {
    const state = this.#functions[functionIndex];
    if (state === undefined) return;
    this.#advance(timeMs);
    if (isStart) this.#start(state, functionIndex);
    else this.#end(state);
  }

  /** Ends what is not wanted any more, makes what is expected, refills what is parked. */
  sweep(nowMs: number): void {
    this.#advance(nowMs);
    for (const state of this.#functions) {
      const { demand, fn } = state;
      const expected = demand.takeExpected(nowMs, this.#clock);
      const wanted = state.live > demand.busy || expected > 0 ? demand.wanted(nowMs) : state.live;
      while (state.live > Math.max(wanted, demand.busy)) this.#drop(state);
      for (let n = 0; n < expected && state.live < wanted; n++) {
        // Nobody has to go for the sake of a call that may never come.
        if (this.#usedMb + fn.memoryMb > this.#options.capMb) break;
        this.#add(state, 'idle');
        this.#counts.prewarmed++;
      }
    }
    const missing = this.#parked.target(nowMs, parkedLimits) - this.#parkedCount;
    this.#parkedCount += Math.min(missing, refillsPerSecond);
  }

  get #clock(): number {
    return this.#options.victims.clock ?? 0;
  }

  #start(state: FunctionState, functionIndex: number): void {
    const { demand, fn } = state;
    this.#counts.calls++;
    this.#options.victims.called?.(functionIndex, demand.busy + state.refused + 1);
    if (state.live > demand.busy) {
      this.#idleMb -= fn.memoryMb;
    } else {
      this.#counts.cold++;
      if (!this.#makeRoom(fn.memoryMb)) {
        this.#counts.refused++;
        state.refused++;
        return;
      }
      this.#add(state, 'busy');
      this.#payForStart();
    }
    demand.taken(this.#nowMs);
  }

  #end(state: FunctionState): void {
    if (state.refused > 0) {
      state.refused--;
      return;
    }
    state.demand.freed(this.#nowMs, this.#clock);
    this.#idleMb += state.fn.memoryMb;
  }

  #payForStart(): void {
    const isParked = this.#parkedCount > 0;
    if (isParked) {
      this.#parkedCount--;
      this.#counts.parkedStarts++;
    }
    this.#parked.started(this.#nowMs);
    this.#counts.penaltyMs += isParked ? this.#options.costs.parked : this.#options.costs.forked;
  }

  #makeRoom(neededMb: number): boolean {
    const { capMb, victims } = this.#options;
    const missingMb = this.#usedMb + neededMb - capMb;
    if (missingMb <= 0) return true;
    const chosen = chooseVictims(this.#idle(), missingMb);
    if (chosen === undefined) return false;
    for (const { state, priority } of chosen) {
      this.#drop(state);
      this.#counts.evicted++;
      victims.evicted?.(priority);
    }
    return true;
  }

  #idle(): { state: FunctionState; bytes: number; priority: number }[] {
    const idle = [];
    for (const [functionIndex, state] of this.#functions.entries())
      for (let n = state.live; n > state.demand.busy; n--) {
        const candidate = { functionIndex, n, demand: state.demand, nowMs: this.#nowMs };
        const priority = this.#options.victims.priority(candidate);
        idle.push({ state, bytes: state.fn.memoryMb, priority });
      }
    return idle;
  }

  #add(state: FunctionState, as: 'busy' | 'idle'): void {
    state.live++;
    this.#usedMb += state.fn.memoryMb;
    if (as === 'idle') this.#idleMb += state.fn.memoryMb;
    this.#counts.peakMb = Math.max(this.#counts.peakMb, this.#usedMb);
  }

  #drop(state: FunctionState): void {
    state.live--;
    this.#usedMb -= state.fn.memoryMb;
    this.#idleMb -= state.fn.memoryMb;
  }

  #advance(nowMs: number): void {
    this.#idleMbMs += this.#idleMb * (nowMs - this.#nowMs);
    this.#nowMs = nowMs;
  }
}
