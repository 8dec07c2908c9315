/** Unix sockets that carry descriptors (unix(7), SCM_RIGHTS), and pipes. */
import { allocate, errnoOf, syscall, syscallError, trySyscall } from './libc.ts';

// <sys/socket.h>, <fcntl.h>
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;
const O_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SHUT_RD = 0;
const MSG_DONTWAIT = 0x40;
const MSG_CTRUNC = 0x8;
const MSG_TRUNC = 0x20;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

/** The most descriptors one message may carry; the kernel's own limit is 253 (SCM_MAX_FD). */
export const messageFdsMax = 32;
/** The most bytes one message may carry. */
export const messageBytesMax = 256 * 1024;

/** Where the fields of the kernel's structures lie; checked against the C compiler in a test. */
export const messageLayout = {
  msghdr: { size: 56, iov: 16, iovlen: 24, control: 32, controllen: 40, flags: 48 },
  iovec: { size: 16, base: 0, len: 8 },
  cmsghdr: { size: 16, len: 0, level: 8, type: 12 },
} as const;

/** The size of `sun_path` of <sys/un.h>. */
const pathBytesMax = 108;

export type SocketKind = 'stream' | 'seqpacket';

export interface ReceivedMessage {
  bytes: Buffer;
  /** Close-on-exec; the receiver owns them. */
  fds: number[];
}

const socketpair = syscall<[number, number, number, Uint8Array]>(
  'int socketpair(int domain, int type, int protocol, uint8_t *fds)',
);
const shutdown = syscall<[number, number]>('int shutdown(int fd, int how)');
const socketCall = syscall<[number, number, number]>(
  'int socket(int domain, int type, int protocol)',
);
const connectCall = syscall<[number, Uint8Array, number]>(
  'int connect(int fd, const uint8_t *address, uint32_t length)',
);
const pipe2 = syscall<[Uint8Array, number]>('int pipe2(uint8_t *fds, int flags)');
const sendmsg = trySyscall<[number, bigint, number]>(
  'long sendmsg(int fd, void *message, int flags)',
);
const recvmsg = trySyscall<[number, bigint, number]>(
  'long recvmsg(int fd, void *message, int flags)',
);
const closeFd = trySyscall<[number]>('int close(int fd)');

// One message at a time: sendmsg and recvmsg are synchronous, so native memory can be shared.
const header = allocate(messageLayout.msghdr.size);
const vector = allocate(messageLayout.iovec.size);
const control = allocate(messageLayout.cmsghdr.size + messageFdsMax * 4);
const payload = allocate(messageBytesMax);

/** A connected pair, close-on-exec. */
export function socketPair(kind: SocketKind): [number, number] {
  const fds = Buffer.alloc(8);
  const type = (kind === 'stream' ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC;
  socketpair(AF_UNIX, type, 0, fds);
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

/** From here on the other end can send nothing any more: `EPIPE`. */
export function stopReceiving(fd: number): void {
  shutdown(fd, SHUT_RD);
}

/**
 * A socket that sends each message to that path, close-on-exec. An address that begins with "@" is
 * an abstract name (unix(7)).
 */
export function connectDatagram(address: string): number {
  const bytes = unixAddress(address);
  const fd = socketCall(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    connectCall(fd, bytes, bytes.length);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** As the kernel takes it: `struct sockaddr_un` of <sys/un.h>, as long as it needs to be. */
export function unixAddress(address: string): Buffer {
  const path = Buffer.from(address.startsWith('@') ? `\0${address.slice(1)}` : `${address}\0`);
  if (path.length > pathBytesMax)
    throw new RangeError(`A socket's address has at most ${pathBytesMax} bytes: "${address}"`);
  const family = Buffer.alloc(2);
  family.writeUInt16LE(AF_UNIX);
  return Buffer.concat([family, path]);
}

/** A pipe, close-on-exec: [read end, write end]. */
export function pipe(): [number, number] {
  const fds = Buffer.alloc(8);
  pipe2(fds, O_CLOEXEC);
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

/**
 * Sends bytes and descriptors as one message. On a non-blocking socket a full buffer is an `EAGAIN`
 * error; a closed peer is `EPIPE`, without a signal.
 */
export function sendMessage(fd: number, bytes: Uint8Array, fds: readonly number[] = []): void {
  if (bytes.length === 0 || bytes.length > messageBytesMax)
    throw new RangeError(`A message has 1 to ${messageBytesMax} bytes: got ${bytes.length}`);
  if (fds.length > messageFdsMax)
    throw new RangeError(`A message carries at most ${messageFdsMax} descriptors`);
  payload.bytes.set(bytes);
  const { cmsghdr } = messageLayout;
  const controlBytes = fds.length === 0 ? 0 : cmsghdr.size + fds.length * 4;
  if (fds.length > 0) {
    control.bytes.writeBigUInt64LE(BigInt(controlBytes), cmsghdr.len);
    control.bytes.writeInt32LE(SOL_SOCKET, cmsghdr.level);
    control.bytes.writeInt32LE(SCM_RIGHTS, cmsghdr.type);
    fds.forEach((value, index) => control.bytes.writeInt32LE(value, cmsghdr.size + index * 4));
  }
  // Control data is padded to 8 bytes (CMSG_SPACE).
  describeMessage(bytes.length, Math.ceil(controlBytes / 8) * 8);
  const result = sendmsg(fd, header.address, MSG_NOSIGNAL);
  if (result < 0) throw syscallError('sendmsg', result, `of ${bytes.length} bytes`);
  if (result !== bytes.length)
    throw syscallError('sendmsg', -errnoOf('EMSGSIZE'), `sent ${result} of ${bytes.length} bytes`);
}

/** Receives one message; undefined at the end of the stream. Blocks unless told otherwise. */
export function receiveMessage(
  fd: number,
  options: { nonBlocking?: boolean } = {},
): ReceivedMessage | undefined {
  describeMessage(messageBytesMax, control.bytes.length);
  const wait = options.nonBlocking === true ? MSG_DONTWAIT : 0;
  let result: number;
  do result = recvmsg(fd, header.address, MSG_CMSG_CLOEXEC | wait);
  while (result === -errnoOf('EINTR'));
  if (result < 0) throw syscallError('recvmsg', result);
  const fds = receivedFds();
  const flags = header.bytes.readInt32LE(messageLayout.msghdr.flags);
  if ((flags & (MSG_CTRUNC | MSG_TRUNC)) !== 0) {
    for (const each of fds) closeFd(each);
    throw syscallError('recvmsg', -errnoOf('EMSGSIZE'), 'the message was cut');
  }
  if (result === 0 && fds.length === 0) return undefined;
  return { bytes: Buffer.from(payload.bytes.subarray(0, result)), fds };
}

function describeMessage(size: number, controlSize: number): void {
  const { msghdr, iovec } = messageLayout;
  vector.bytes.writeBigUInt64LE(payload.address, iovec.base);
  vector.bytes.writeBigUInt64LE(BigInt(size), iovec.len);
  header.bytes.fill(0);
  header.bytes.writeBigUInt64LE(vector.address, msghdr.iov);
  header.bytes.writeBigUInt64LE(1n, msghdr.iovlen);
  header.bytes.writeBigUInt64LE(controlSize === 0 ? 0n : control.address, msghdr.control);
  header.bytes.writeBigUInt64LE(BigInt(controlSize), msghdr.controllen);
}

function receivedFds(): number[] {
  const { msghdr, cmsghdr } = messageLayout;
  if (Number(header.bytes.readBigUInt64LE(msghdr.controllen)) < cmsghdr.size) return [];
  if (control.bytes.readInt32LE(cmsghdr.type) !== SCM_RIGHTS) return [];
  const length = Number(control.bytes.readBigUInt64LE(cmsghdr.len));
  const fds: number[] = [];
  for (let offset: number = cmsghdr.size; offset + 4 <= length; offset += 4)
    fds.push(control.bytes.readInt32LE(offset));
  return fds;
}
