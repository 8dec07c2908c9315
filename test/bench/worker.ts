/**
 * A helper process with a mount namespace of its own, and a network namespace where that is wanted,
 * asked over IPC: one request, one answer.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

export type Handlers = Record<string, (argument: never) => Promise<unknown>>;
type Argument<H> = H extends (argument: infer A) => unknown ? A : never;

interface Answer {
  value?: unknown;
  error?: string;
}

const interruptedMessage = 'Interrupted';

/** Whoever starts the helper names the type of its handlers. */
export class Worker<H extends Handlers> {
  static readonly #all = new Set<Worker<Handlers>>();
  static #interrupted = false;
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;
  #waiting: PromiseWithResolvers<unknown> | undefined;

  /** Whoever waits for a helper, or asks one from now on, is told so; `close` still waits. */
  static interruptAll(): void {
    Worker.#interrupted = true;
    for (const worker of Worker.#all) worker.#settle({ error: interruptedMessage });
  }

  constructor(fileName: string, { ownNetwork = false } = {}) {
    Worker.#all.add(this as unknown as Worker<Handlers>);
    this.#child = spawn(
      'unshare',
      [
        '--mount',
        ...(ownNetwork ? ['--net'] : []),
        '--propagation=private',
        process.execPath,
        ...process.execArgv,
        join(import.meta.dirname, fileName),
      ],
      // A group of its own: Ctrl-C reaches the bench alone, which closes everything in order.
      { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], detached: true },
    );
    this.#child.on('message', (answer: Answer) => this.#settle(answer));
    this.#gone = once(this.#child, 'exit').then(([code, signal]) => {
      const how = `"${fileName}" ended with ${String(signal ?? code)}`;
      this.#settle({ error: how });
    });
  }

  async ask<K extends keyof H & string>(
    name: K,
    argument: Argument<H[K]>,
  ): Promise<Awaited<ReturnType<H[K]>>> {
    if (Worker.#interrupted) throw new Error(interruptedMessage);
    if (!this.#child.connected) throw new Error(`Cannot ask for "${name}": the helper is gone`);
    const waiting = (this.#waiting = Promise.withResolvers<unknown>());
    this.#child.send({ name, argument });
    return (await waiting.promise) as Awaited<ReturnType<H[K]>>;
  }

  /** The helper gives back what it has and ends. */
  async close(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.#gone;
    Worker.#all.delete(this as unknown as Worker<Handlers>);
  }

  #settle({ value, error }: Answer): void {
    if (error === undefined) this.#waiting?.resolve(value);
    else this.#waiting?.reject(new Error(error));
  }
}

/** The helper's side. `close` runs when the other side has closed or died. */
export function serve(handlers: Handlers, close: () => Promise<void>): void {
  process.on('message', ({ name, argument }: { name: string; argument: never }) => {
    const handler = handlers[name] ?? (() => Promise.reject(new Error(`There is no "${name}"`)));
    handler(argument).then(
      (value) => process.send?.({ value }),
      (error: unknown) =>
        process.send?.({ error: error instanceof Error ? error.message : String(error) }),
    );
  });
  process.once('disconnect', () => {
    close().then(
      () => process.exit(0),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
}
