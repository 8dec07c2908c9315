/** What child processes and native code of a function write to descriptors 1 and 2: one pipe. */
import { Socket } from 'node:net';
import { StringDecoder } from 'node:string_decoder';
import type { Output } from './function-channel.ts';

export class RawOutput {
  readonly #socket: Socket;

  constructor(fd: number, onOutput: (output: Output) => void) {
    const decoder = new StringDecoder('utf8');
    this.#socket = new Socket({ fd, readable: true, writable: false });
    this.#socket.on('data', (chunk: Buffer) => {
      const text = decoder.write(chunk);
      if (text !== '') onOutput({ callId: 0, stream: 'stdout', text });
    });
    this.#socket.on('error', () => undefined);
  }

  close(): void {
    this.#socket.destroy();
  }
}
