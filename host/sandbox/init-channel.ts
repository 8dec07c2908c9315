/** The host's end of the socket to a container's PID 1. Closing it ends the container. */
import type { Socket } from 'node:net';
import type { InitCommand, InitMessage } from '../protocol/zygote.ts';

export interface FunctionExit {
  /** 0..255; 128 + n for a function ended by signal n. */
  exitCode: number;
  signal: number | undefined;
}

const lineCharsMax = 4096;

export class InitChannel {
  /** Resolves when PID 1 has given up its rights and runs; rejects when it closed before. */
  readonly running: Promise<void>;
  /** Resolves when PID 1 is gone and all that it said was read, or after `close`. */
  readonly ended: Promise<void>;
  /** What PID 1 said of the function's end, once it did. */
  exit: FunctionExit | undefined;
  readonly #socket: Socket;
  readonly #onExit: (exit: FunctionExit) => void;
  #text = '';

  constructor(socket: Socket, onExit: (exit: FunctionExit) => void) {
    this.#onExit = onExit;
    this.#socket = socket;
    const running = Promise.withResolvers<void>();
    this.running = running.promise;
    this.running.catch(() => undefined);
    this.#socket.on('data', (chunk: Buffer) => {
      try {
        this.#receive(chunk, running.resolve);
      } catch {
        // No PID 1 of ours sends what cannot be read; without its socket it ends the container.
        this.close();
      }
    });
    this.ended = new Promise((resolve) => this.#socket.once('close', resolve));
    void this.ended.then(() => running.reject(new Error('PID 1 ended')));
  }

  /** Passes a signal to the function by way of PID 1. */
  signal(signal: number): void {
    const command: InitCommand = { signal };
    this.#socket.write(`${JSON.stringify(command)}\n`);
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer, onRunning: () => void): void {
    this.#text += chunk.toString('latin1');
    const lines = this.#text.split('\n');
    this.#text = (lines.pop() ?? '').slice(0, lineCharsMax);
    for (const line of lines) {
      const message = JSON.parse(line) as InitMessage;
      if (message.type === 'running') onRunning();
      else {
        this.exit = exitOf(message);
        this.#onExit(this.exit);
      }
    }
  }
}

/** PID 1 is our code, but it has lived beside the function's. */
function exitOf({ type, exitCode, signal }: InitMessage & { type: 'exited' }): FunctionExit {
  const known = type === 'exited' && isByte(exitCode) && (signal === undefined || isByte(signal));
  if (!known) throw new RangeError('There is no such message');
  return { exitCode, signal };
}

function isByte(value: unknown): boolean {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 255;
}
