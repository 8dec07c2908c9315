/** The calls that a seccomp filter asks about: hearing of them, answering (seccomp_unotify(2)). */
import { errnoOf, syscallError, trySyscall } from './libc.ts';

// <linux/seccomp.h>
const SECCOMP_IOCTL_NOTIF_RECV = 0xc0502100;
const SECCOMP_IOCTL_NOTIF_SEND = 0xc0182101;

/** struct seccomp_notif, with struct seccomp_data from 16 on */
export const notificationLayout = { size: 80, id: 0, pid: 8, number: 16 } as const;
/** struct seccomp_notif_resp */
export const notificationAnswerLayout = { size: 24, id: 0, error: 16 } as const;

const ioctlCall = trySyscall<[number, number, Uint8Array]>(
  'int ioctl(int fd, unsigned long request, uint8_t *argument)',
);
const pollCall = trySyscall<[Uint8Array, number, number]>(
  'int poll(uint8_t *fds, unsigned long count, int timeout)',
);

/** A call that waits for its answer. */
export interface WaitingCall {
  id: bigint;
  /** The thread that makes it, as this process sees it. */
  pid: number;
  number: number;
}

/**
 * The next call that waits; `none` for now, or `over` when no process is left under the filter.
 */
export function nextWaitingCall(listenerFd: number): WaitingCall | 'none' | 'over' {
  const POLLIN = 1;
  const POLLHUP = 16;
  const { size, id, pid, number } = notificationLayout;
  for (;;) {
    // Receiving blocks when there is none, whatever the descriptor's flags.
    const pollFd = Buffer.alloc(8);
    pollFd.writeInt32LE(listenerFd, 0);
    pollFd.writeInt16LE(POLLIN, 4);
    pollCall(pollFd, 1, 0);
    const events = pollFd.readInt16LE(6);
    if ((events & POLLIN) === 0) return (events & POLLHUP) === 0 ? 'none' : 'over';
    const call = Buffer.alloc(size);
    const result = ioctlCall(listenerFd, SECCOMP_IOCTL_NOTIF_RECV, call);
    if (result === 0)
      return {
        id: call.readBigUInt64LE(id),
        pid: call.readUInt32LE(pid),
        number: call.readInt32LE(number),
      };
    // It was killed in between.
    if (result !== -errnoOf('ENOENT') && result !== -errnoOf('EINTR'))
      throw syscallError('ioctl', result, 'SECCOMP_IOCTL_NOTIF_RECV');
  }
}

/** Makes the call fail with that errno, such as `EPERM`. One that is gone needs no answer. */
export function refuseWaitingCall(listenerFd: number, call: WaitingCall, errno: string): void {
  const { size, id, error } = notificationAnswerLayout;
  const answer = Buffer.alloc(size);
  answer.writeBigUInt64LE(call.id, id);
  answer.writeInt32LE(-errnoOf(errno), error);
  const result = ioctlCall(listenerFd, SECCOMP_IOCTL_NOTIF_SEND, answer);
  if (result < 0 && result !== -errnoOf('ENOENT'))
    throw syscallError('ioctl', result, 'SECCOMP_IOCTL_NOTIF_SEND');
}
