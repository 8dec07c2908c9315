/**
 * Network namespaces made ahead, since the kernel makes them one at a time. Each is given away once
 * and dies with its container: the kernel destroys them in batches, in the background.
 */
import { closeSync } from 'node:fs';
import { messageOf } from '../base/errors.ts';

export interface NetworkNamespacesOptions {
  /** How many to keep ready. */
  readyCount: number;
  make: () => Promise<number>;
  onError: (message: string) => void;
}

const refillDelayMs = 20;

export class NetworkNamespaces {
  readonly #options: NetworkNamespacesOptions;
  readonly #ready: number[] = [];
  #filling: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: NetworkNamespacesOptions) {
    this.#options = options;
  }

  /** A descriptor, now the caller's; undefined when none is ready: make one in place then. */
  take(): number | undefined {
    const fd = this.#ready.pop();
    // Later: the start that takes this one needs the zygote now.
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.fill();
    }, refillDelayMs);
    return fd;
  }

  /** Resolves when the pool is full, or making failed. */
  fill(): Promise<void> {
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined;
    });
    return this.#filling;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const fd of this.#ready.splice(0)) closeSync(fd);
  }

  async #fill(): Promise<void> {
    // One at a time, each a turn of the event loop apart: a refill must not hold up a start.
    while (!this.#closed && this.#ready.length < this.#options.readyCount) {
      try {
        const fd = await this.#options.make();
        if (this.#closed) closeSync(fd);
        else this.#ready.push(fd);
      } catch (error) {
        this.#options.onError(`Cannot make a network namespace: ${messageOf(error)}`);
        return;
      }
    }
  }
}
