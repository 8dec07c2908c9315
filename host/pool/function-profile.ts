/** What the pool has measured of one version of a function, for deciding what to keep. */
import { InstanceDemand } from './policy/instance-demand.ts';
import type { PoolFunction } from './pool-function.ts';

const MiB = 2 ** 20;
/** How much less a smaller measurement counts than a larger one. */
const smoothing = 16;

export class FunctionProfile {
  readonly demand: InstanceDemand;
  readonly #limitBytes: number;
  #memoryBytes: number | undefined;
  #startMs: number | undefined;

  constructor(fn: Pick<PoolFunction, 'keepAlive' | 'memoryMb'>) {
    this.demand = new InstanceDemand(fn.keepAlive);
    this.#limitBytes = fn.memoryMb * MiB;
  }

  /** What an instance takes; its limit, as long as none has been seen. */
  get memoryBytes(): number {
    return Math.min(this.#memoryBytes ?? this.#limitBytes, this.#limitBytes);
  }

  get memoryKnown(): boolean {
    return this.#memoryBytes !== undefined;
  }

  /** What a start costs; 1 as long as none has been seen. */
  get startMs(): number {
    return this.#startMs ?? 1;
  }

  /** Rises at once and falls slowly: the next instance may be as large as the last large one. */
  measuredMemory(bytes: number): void {
    const known = this.#memoryBytes ?? 0;
    this.#memoryBytes = bytes > known ? bytes : known + (bytes - known) / smoothing;
  }

  measuredStart(ms: number): void {
    this.#startMs = this.#startMs === undefined ? ms : this.#startMs + (ms - this.#startMs) / 4;
  }
}
