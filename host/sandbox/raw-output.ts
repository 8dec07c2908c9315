/** What child processes and native code of a function write to descriptors 1 and 2: one pipe. */
import type { Socket } from 'node:net';
import { StringDecoder } from 'node:string_decoder';
import type { Output } from './function-channel.ts';

export class RawOutput {
  /** Resolves when nobody can write any more and all was read, or after `close`. */
  readonly ended: Promise<void>;
  readonly #socket: Socket;

  constructor(socket: Socket, onOutput: (output: Output) => void) {
    const decoder = new StringDecoder('utf8');
    this.#socket = socket;
    this.#socket.on('data', (chunk: Buffer) => {
      const text = decoder.write(chunk);
      if (text !== '') onOutput({ callId: 0, stream: 'stdout', text });
    });
    this.ended = new Promise((resolve) => this.#socket.once('close', resolve));
  }

  close(): void {
    this.#socket.destroy();
  }
}
