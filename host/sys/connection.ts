/** A descriptor that is both a stream of the event loop and a way for messages with descriptors. */
import { Socket } from 'node:net';

export interface Connection {
  /** For raw messages; closed by the socket. */
  readonly fd: number;
  /** What comes before anybody listens is kept; errors are told by `close` alone. */
  readonly socket: Socket;
}

/** Takes over one end of a socket pair, or with `writable: false` the read end of a pipe. */
export function connectFd(fd: number, { writable = true } = {}): Connection {
  const socket = new Socket({ fd, readable: true, writable });
  socket.on('error', () => undefined);
  return { fd, socket };
}
