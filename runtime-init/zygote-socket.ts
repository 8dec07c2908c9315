/** The zygote's end of its socket to the host. */
import { closeSync } from 'node:fs';
import type { ZygoteAnswer, ZygoteHello, ZygoteRequest } from '../host/protocol/zygote.ts';
import { isErrno } from '../host/sys/errors.ts';
import { exitNow } from '../host/sys/fork.ts';
import { receiveMessage, sendMessage } from '../host/sys/socket.ts';

export const zygoteSocketFd = 3;

export interface ReceivedRequest {
  request: ZygoteRequest;
  /** The receiver's to close. */
  fds: number[];
}

/** Blocks; undefined when the host has closed its end. */
export function nextRequest(): ReceivedRequest | undefined {
  const message = receiveMessage(zygoteSocketFd);
  if (message === undefined) return undefined;
  return { request: JSON.parse(message.bytes.toString()) as ZygoteRequest, fds: message.fds };
}

export function answer(body: ZygoteAnswer | ZygoteHello, fds: readonly number[] = []): void {
  try {
    sendMessage(zygoteSocketFd, Buffer.from(JSON.stringify(body)), fds);
  } catch (error) {
    // The host has gone away while it waited for this.
    if (isErrno(error, 'EPIPE', 'ECONNRESET')) exitNow(0);
    throw error;
  }
}

/** Gives the descriptor away: it is closed here, whatever happens. */
export function answerWithFd(fd: number, body: ZygoteAnswer | ZygoteHello): void {
  try {
    answer(body, [fd]);
  } finally {
    closeSync(fd);
  }
}
