/**
 * The warm parent of containers. It is replaced after a number of forks and after a time, so that
 * no memory layout lives for ever, and when it dies; containers that it forked notice neither.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import { ReadyStock } from '../base/ready-stock.ts';
import {
  bootPair,
  discardPair,
  forkPair,
  giveOrder,
  type BlankPair,
  type PairOrder,
  type ProcessPair,
} from './process-pair.ts';
import {
  ZygoteProcess,
  type Answer,
  type RequestBody,
  type ZygoteProcessOptions,
} from './zygote-process.ts';

/** Pairs of processes kept for the next containers; each costs some MB. */
const blankPairs = 2;
const blankPairBytes = 3 * 2 ** 20;
const restartDelayMs = { first: 50, max: 5_000 } as const;

export interface ZygoteEvents {
  /** Something an operator wants to know of. */
  onNotice: (message: string) => void;
  /** It was time for another process, which serves now. */
  onReplaced: () => void;
}

export interface ZygoteOptions extends ZygoteProcessOptions {
  replaceAfterForks: number;
  replaceAfterMs: number;
}

export interface ZygoteState {
  pid: number;
  /** How containers are made: by forking a warm Node.js, or by executing a new one. */
  mode: 'fork' | 'exec';
  /** Why it does not fork. */
  reason?: string;
  /** Of the process that serves now. */
  forks: number;
  /** How many processes have served so far. */
  generation: number;
}

export class Zygote {
  readonly #options: ZygoteOptions;
  readonly #events: ZygoteEvents;
  #current: ZygoteProcess;
  #blanks: ReadyStock<BlankPair>;
  #forks = 0;
  #generation = 1;
  #restart: Promise<void> | undefined;
  #ageTimer: NodeJS.Timeout | undefined;
  #replacement: Promise<void> | undefined;
  #stopped = false;

  /** Rejects with `host.start_failed` when the first process does not come up. */
  static async start(options: ZygoteOptions, events: ZygoteEvents): Promise<Zygote> {
    return new Zygote(options, events, await ZygoteProcess.start(options));
  }

  private constructor(options: ZygoteOptions, events: ZygoteEvents, first: ZygoteProcess) {
    this.#options = options;
    this.#events = events;
    this.#current = first;
    this.#blanks = this.#stockBlanks();
    this.#watch(first);
    this.#limitAge();
  }

  get mode(): 'fork' | 'exec' {
    return this.#current.mode;
  }

  /** Its own pages and those of its blank pairs; what it forked is charged to its containers. */
  get memoryBytes(): number {
    const pairs = this.mode === 'fork' ? blankPairs : 0;
    return this.#current.memoryBytes + pairs * blankPairBytes;
  }

  get state(): ZygoteState {
    const { pid, mode, reason } = this.#current;
    const why = reason === undefined ? {} : { reason };
    return { pid, mode, ...why, forks: this.#forks, generation: this.#generation };
  }

  /** Resolves when the first blank pairs are there. */
  fill(): Promise<void> {
    return this.#blanks.fill();
  }

  /**
   * The processes of one container, on their way already. The order's descriptors must stay open
   * until the pair's `first` is settled. Throws `host.start_failed`.
   */
  spawn(order: PairOrder): ProcessPair {
    if (this.#current.mode === 'exec') {
      return bootPair((body, fds) => this.#askForPair(body, fds), order);
    }
    for (;;) {
      const ready = this.#blanks.take();
      const pair = ready ?? this.#forkBlank();
      try {
        giveOrder(pair, order);
        return pair;
      } catch (cause) {
        discardPair(pair).catch(() => undefined);
        // One that died while it waited is no reason to give up.
        if (ready === undefined)
          throw new HatchError('host.start_failed', 'Cannot reach a new process', { cause });
      }
    }
  }

  /** A network namespace with its loopback up; the descriptor is the caller's. */
  async makeNetworkNamespace(): Promise<number> {
    return fdOf(await this.#ask({ type: 'networkNamespace' }));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#ageTimer);
    await this.#replacement;
    await this.#blanks.close();
    await this.#current.drained();
    this.#current.close();
    await this.#current.ended;
  }

  #stockBlanks(): ReadyStock<BlankPair> {
    return new ReadyStock({
      name: 'blank pairs',
      count: this.#current.mode === 'fork' ? blankPairs : 0,
      make: async () => {
        const pair = this.#forkBlank();
        try {
          await pair.first;
        } catch (error) {
          // Its processes may be there although the zygote has died: they wait for our end.
          discardPair(pair).catch(() => undefined);
          throw error;
        }
        return pair;
      },
      discard: discardPair,
    });
  }

  #forkBlank(): BlankPair {
    return forkPair((body, fds) => this.#askForPair(body, fds));
  }

  async #askForPair(body: RequestBody, fds: readonly number[]): Promise<Answer> {
    const answer = await this.#ask(body, fds);
    this.#forks++;
    if (this.#forks >= this.#options.replaceAfterForks) this.#replace();
    return answer;
  }

  /** While the zygote is being restarted, requests wait for the new one. */
  async #ask(body: RequestBody, fds: readonly number[] = []): Promise<Answer> {
    if (this.#restart !== undefined) await this.#restart;
    return this.#current.request(body, fds);
  }

  /** One that executes has no layout that others share. */
  #limitAge(): void {
    clearTimeout(this.#ageTimer);
    if (this.#stopped || this.mode === 'exec') return;
    this.#ageTimer = setTimeout(() => this.#replace(), this.#options.replaceAfterMs);
    this.#ageTimer.unref();
  }

  #watch(process: ZygoteProcess): void {
    void process.ended.then((lastWords) => {
      if (this.#stopped || process !== this.#current) return;
      const words = lastWords === '' ? '' : `: ${lastWords}`;
      this.#events.onNotice(`Zygote ${process.pid} died, starting another${words}`);
      this.#restart = this.#startAnew().finally(() => {
        this.#restart = undefined;
      });
    });
  }

  async #startAnew(): Promise<void> {
    for (let waitMs: number = restartDelayMs.first; !this.#stopped; waitMs *= 2) {
      try {
        this.#adopt(await ZygoteProcess.start(this.#options));
        return;
      } catch (error) {
        this.#events.onNotice(`Cannot start a zygote: ${messageOf(error)}`);
        await delay(Math.min(waitMs, restartDelayMs.max));
      }
    }
  }

  /** Make before break: the old one serves until the new one has warmed up. */
  #replace(): void {
    const replaced = this.#current;
    this.#replacement ??= ZygoteProcess.start(this.#options)
      .then(async (next) => {
        const old = this.#current;
        // It died meanwhile, and another has taken its place: one is enough.
        if (old !== replaced) {
          next.close();
          return;
        }
        this.#adopt(next);
        this.#events.onReplaced();
        await old.drained();
        old.close();
      })
      .catch((error: unknown) => {
        this.#events.onNotice(`Cannot replace the zygote: ${messageOf(error)}`);
        this.#limitAge();
      })
      .finally(() => {
        this.#replacement = undefined;
      });
  }

  #adopt(next: ZygoteProcess): void {
    if (this.#stopped) {
      next.close();
      return;
    }
    this.#current = next;
    this.#forks = 0;
    this.#generation++;
    this.#watch(next);
    this.#limitAge();
    // Those of the one before are not to outlive it.
    this.#blanks.close().catch(() => undefined);
    this.#blanks = this.#stockBlanks();
    void this.fill();
  }
}

function fdOf(answer: Answer): number {
  if (answer.fd === undefined)
    throw new HatchError('internal.bug', 'The zygote answered without a descriptor');
  return answer.fd;
}
