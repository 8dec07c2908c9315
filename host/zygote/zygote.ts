/**
 * The warm parent of all containers. It is replaced after a number of forks, so that no memory
 * layout lives for ever, and when it dies; containers that it forked notice neither.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import type { ContainerIdentity, FdRole } from '../protocol/zygote.ts';
import {
  ZygoteProcess,
  type Answer,
  type RequestBody,
  type ZygoteOptions,
} from './zygote-process.ts';

const restartDelayMs = { first: 50, max: 5_000 } as const;

export interface ZygoteEvents {
  /** Something an operator wants to know of. */
  onNotice: (message: string) => void;
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
  readonly #options: ZygoteOptions & { replaceAfterForks: number };
  readonly #events: ZygoteEvents;
  #current: ZygoteProcess;
  #forks = 0;
  #generation = 1;
  #restart: Promise<void> | undefined;
  #replacement: Promise<void> | undefined;
  #stopped = false;

  /** Rejects with `host.start_failed` when the first process does not come up. */
  static async start(
    options: ZygoteOptions & { replaceAfterForks: number },
    events: ZygoteEvents,
  ): Promise<Zygote> {
    return new Zygote(options, events, await ZygoteProcess.start(options));
  }

  private constructor(
    options: ZygoteOptions & { replaceAfterForks: number },
    events: ZygoteEvents,
    first: ZygoteProcess,
  ) {
    this.#options = options;
    this.#events = events;
    this.#current = first;
    this.#watch(first);
    this.#tellMode();
  }

  get state(): ZygoteState {
    const { pid, mode, reason } = this.#current;
    const why = reason === undefined ? {} : { reason };
    return { pid, mode, ...why, forks: this.#forks, generation: this.#generation };
  }

  /** Makes the processes of one container. */
  async spawn(request: {
    identity: ContainerIdentity;
    fds: readonly (readonly [FdRole, number])[];
  }): Promise<{ pid: number; pidFd: number }> {
    const body: RequestBody = {
      type: 'fork',
      fds: request.fds.map(([role]) => role),
      container: request.identity,
    };
    const answer = await this.#ask(
      body,
      request.fds.map(([, fd]) => fd),
    );
    this.#forks++;
    if (this.#forks >= this.#options.replaceAfterForks) this.#replace();
    if (answer.pid === undefined) throw new HatchError('internal.bug', 'A fork came without a pid');
    return { pid: answer.pid, pidFd: fdOf(answer) };
  }

  /** A network namespace with its loopback up; the descriptor is the caller's. */
  async makeNetworkNamespace(): Promise<number> {
    return fdOf(await this.#ask({ type: 'networkNamespace' }));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#replacement;
    this.#current.close();
    await this.#current.ended;
  }

  #tellMode(): void {
    const { mode, reason } = this.#current;
    if (mode === 'exec')
      this.#events.onNotice(`Zygote does not fork (${reason}): instances boot, which is slow`);
  }

  /** While the zygote is being restarted, requests wait for the new one. */
  async #ask(body: RequestBody, fds: readonly number[] = []): Promise<Answer> {
    if (this.#restart !== undefined) await this.#restart;
    return this.#current.request(body, fds);
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
        await old.drained();
        old.close();
      })
      .catch((error: unknown) => {
        this.#events.onNotice(`Cannot replace the zygote: ${messageOf(error)}`);
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
  }
}

function fdOf(answer: Answer): number {
  if (answer.fd === undefined)
    throw new HatchError('internal.bug', 'The zygote answered without a descriptor');
  return answer.fd;
}
