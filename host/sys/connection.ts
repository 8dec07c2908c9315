/** A descriptor that is both a stream of the event loop and a way for messages with descriptors. */
import { fchownSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { errnoOf, syscallError } from './libc.ts';
import { sendMessage, stopReceiving } from './socket.ts';

/**
 * The stream closes the descriptor as soon as it meets its end, and the next descriptor to be
 * opened gets the same number: whoever went on using the number would write to a stranger. So it
 * never leaves here.
 */
export class Connection {
  /** What comes before anybody listens is kept; errors are told by `close` alone. */
  readonly socket: Socket;
  readonly #fd: number;

  /**
   * Takes over one end of a socket pair, or with `writable: false` the read end of a pipe. With
   * `readable: false` the other end of the pair can send nothing, descriptors neither.
   */
  constructor(fd: number, { readable = true, writable = true } = {}) {
    this.#fd = fd;
    if (!readable) stopReceiving(fd);
    this.socket = new Socket({ fd, readable, writable });
    this.socket.on('error', () => undefined);
  }

  /**
   * Past the stream, with descriptors.
   *
   * @throws SyscallError `EPIPE` when either end is closed, `EAGAIN` when the buffer is full.
   */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    sendMessage(this.#openFd('sendmsg'), bytes, fds);
  }

  /**
   * Past the stream, which takes longer than the system call. Gives how many bytes went; the rest
   * is for the stream, which waits, or tells that it is broken.
   */
  writeNow(bytes: Uint8Array): number {
    // Nothing overtakes what waits there.
    if (this.socket.writableLength > 0) return 0;
    try {
      return writeSync(this.#openFd('write'), bytes);
    } catch {
      return 0;
    }
  }

  /** @throws SyscallError `EPIPE` when it is closed. */
  changeOwner(uid: number, gid: number): void {
    fchownSync(this.#openFd('fchown'), uid, gid);
  }

  #openFd(call: string): number {
    if (this.socket.destroyed) throw syscallError(call, -errnoOf('EPIPE'), 'on a closed socket');
    return this.#fd;
  }
}
