/**
 * Netlink sockets (netlink(7)): requests to the kernel's network stack as messages of attributes,
 * each answered at once. A socket belongs to the network namespace that its thread was in.
 */
import { closeSync } from 'node:fs';
import { errnoName, syscall } from './libc.ts';

// <linux/netlink.h>, <sys/socket.h>
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
const SOL_NETLINK = 270;
const NETLINK_EXT_ACK = 11;
const NETLINK_CAP_ACK = 10;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_ACK_TLVS = 0x200;
const NLM_F_DUMP = 0x300;
const NLMSGERR_ATTR_MSG = 1;
const NLA_F_NESTED = 0x8000;

/** Where the fields of the kernel's structures lie; checked against the C compiler in a test. */
export const netlinkLayout = {
  nlmsghdr: { size: 16, len: 0, type: 4, flags: 6, seq: 8 },
  nlmsgerr: { size: 20, error: 0 },
  nlattr: { size: 4, len: 0, type: 2 },
} as const;

/** A value is bytes, or further attributes. */
export type Attribute = readonly [type: number, value: Uint8Array | readonly Attribute[]];

export interface NetlinkRequest {
  /** What is being done, for the error: `add link "hatch0"`. */
  step: string;
  type: number;
  /** On top of those that every request has. */
  flags?: number;
  /** The fixed part that a family's messages begin with. */
  header: Uint8Array;
  attributes?: readonly Attribute[];
}

export interface NetlinkMessage {
  type: number;
  body: Buffer;
}

/** The kernel refused a request; `code` is the errno's name, as in Node's own errors. */
export class NetlinkError extends Error {
  override readonly name = 'NetlinkError';
  readonly code: string;

  constructor(step: string, errno: number, hint: string) {
    const code = errnoName(errno);
    super(`Cannot ${step}: ${code}${hint === '' ? '' : ` (${hint})`}`);
    this.code = code;
  }
}

const socketCall = syscall<[number, number, number]>(
  'int socket(int domain, int type, int protocol)',
);
const setsockopt = syscall<[number, number, number, Uint8Array, number]>(
  'int setsockopt(int fd, int level, int name, const uint8_t *value, uint32_t length)',
);
const send = syscall<[number, Uint8Array, number, number]>(
  'long send(int fd, const uint8_t *bytes, size_t length, int flags)',
);
const recv = syscall<[number, Uint8Array, number, number]>(
  'long recv(int fd, uint8_t *bytes, size_t length, int flags)',
);

const receiveBytes = 64 * 1024;

export class Netlink {
  readonly #fd: number;
  readonly #received = Buffer.alloc(receiveBytes);
  #sequence = 0;

  constructor(protocol: 'route' | 'netfilter') {
    const number = protocol === 'route' ? NETLINK_ROUTE : NETLINK_NETFILTER;
    this.#fd = socketCall(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, number);
    const on = Buffer.alloc(4);
    on.writeUInt32LE(1);
    // Errors in words, and without the request that caused them.
    setsockopt(this.#fd, SOL_NETLINK, NETLINK_EXT_ACK, on, on.length);
    setsockopt(this.#fd, SOL_NETLINK, NETLINK_CAP_ACK, on, on.length);
  }

  /** @throws NetlinkError when the kernel refuses */
  request(request: NetlinkRequest): void {
    this.transaction([request]);
  }

  /**
   * Sends requests in one piece, in `frame` where the family has transactions. Every one is
   * answered; the first failure is thrown.
   */
  transaction(
    requests: readonly NetlinkRequest[],
    frame: { begin: readonly NetlinkRequest[]; end: readonly NetlinkRequest[] } = noFrame,
  ): void {
    const pending = new Map<number, NetlinkRequest>();
    const write = (request: NetlinkRequest, flags: number): Buffer =>
      encodeMessage(request, NLM_F_REQUEST | flags, ++this.#sequence);
    const begin = frame.begin.map((each) => write(each, 0));
    const messages = requests.map((each) => {
      const bytes = write(each, NLM_F_ACK);
      pending.set(this.#sequence, each);
      return bytes;
    });
    const all = Buffer.concat([...begin, ...messages, ...frame.end.map((each) => write(each, 0))]);
    send(this.#fd, all, all.length, 0);
    let failure: NetlinkError | undefined;
    while (pending.size > 0) {
      for (const answer of this.#receive()) {
        if (answer.type !== NLMSG_ERROR) continue;
        const request = pending.get(answer.sequence);
        pending.delete(answer.sequence);
        // What the kernel says of no request of ours concerns all: it ends the transaction.
        if (request === undefined) pending.clear();
        failure ??= failureOf(answer, request ?? requests[0]);
      }
    }
    if (failure !== undefined) throw failure;
  }

  /** One object that there is. @throws NetlinkError */
  get(request: NetlinkRequest): NetlinkMessage {
    const bytes = encodeMessage(request, NLM_F_REQUEST, ++this.#sequence);
    send(this.#fd, bytes, bytes.length, 0);
    for (;;) {
      const answer = this.#receive().find(({ sequence }) => sequence === this.#sequence);
      if (answer === undefined) continue;
      const failure = answer.type === NLMSG_ERROR ? failureOf(answer, request) : undefined;
      if (failure !== undefined) throw failure;
      return { type: answer.type, body: Buffer.from(answer.body) };
    }
  }

  /** All objects that there are. @throws NetlinkError */
  dump(request: NetlinkRequest): NetlinkMessage[] {
    const bytes = encodeMessage(request, NLM_F_REQUEST | NLM_F_DUMP, ++this.#sequence);
    send(this.#fd, bytes, bytes.length, 0);
    const found: NetlinkMessage[] = [];
    for (;;) {
      for (const { type, sequence, body, flags } of this.#receive()) {
        if (sequence !== this.#sequence) continue;
        const failure =
          type === NLMSG_ERROR ? failureOf({ type, sequence, body, flags }, request) : undefined;
        if (failure !== undefined) throw failure;
        if (type === NLMSG_DONE) return found;
        found.push({ type, body: Buffer.from(body) });
      }
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #receive(): Answer[] {
    const length = recv(this.#fd, this.#received, receiveBytes, 0);
    return decodeMessages(this.#received.subarray(0, length));
  }
}

/** For a body that is no plain list of attributes, such as one with a header inside. */
export function encodeAttributes(list: readonly Attribute[]): Buffer {
  const { size, len, type } = netlinkLayout.nlattr;
  return Buffer.concat(
    list.map(([attributeType, value]) => {
      const isBytes = value instanceof Uint8Array;
      const payload = isBytes ? value : encodeAttributes(value);
      const bytes = Buffer.alloc(align(size + payload.length));
      bytes.writeUInt16LE(size + payload.length, len);
      bytes.writeUInt16LE(isBytes ? attributeType : attributeType | NLA_F_NESTED, type);
      bytes.set(payload, size);
      return bytes;
    }),
  );
}

export function u8(value: number): Buffer {
  return Buffer.from([value]);
}

/** In the byte order of the machine, which is little-endian. */
export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** In network byte order, as all numbers of nf_tables are. */
export function u32Network(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

/** A string with the NUL at its end. */
export function text(value: string): Buffer {
  return Buffer.from(`${value}\0`);
}

const noFrame = { begin: [], end: [] };

interface Answer {
  type: number;
  flags: number;
  sequence: number;
  body: Buffer;
}

/** Undefined for errno 0, which is an acknowledgement. */
function failureOf(answer: Answer, request: NetlinkRequest | undefined): NetlinkError | undefined {
  const { size, error } = netlinkLayout.nlmsgerr;
  const errno = -answer.body.readInt32LE(error);
  if (errno === 0) return undefined;
  const hasHint = (answer.flags & NLM_F_ACK_TLVS) !== 0;
  const hints = hasHint ? decodeAttributes(answer.body.subarray(size)) : new Map<number, Buffer>();
  const hint = hints.get(NLMSGERR_ATTR_MSG)?.toString('utf8').replace(/\0$/, '') ?? '';
  return new NetlinkError(request?.step ?? 'ask the kernel', errno, hint);
}

/** By type; of several the last. */
export function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  const { size, len, type } = netlinkLayout.nlattr;
  const found = new Map<number, Buffer>();
  for (let at = 0; at + size <= bytes.length;) {
    const length = bytes.readUInt16LE(at + len);
    if (length < size || at + length > bytes.length) break;
    found.set(bytes.readUInt16LE(at + type) & 0x3fff, bytes.subarray(at + size, at + length));
    at += align(length);
  }
  return found;
}

function encodeMessage(request: NetlinkRequest, flags: number, sequence: number): Buffer {
  const { nlmsghdr } = netlinkLayout;
  const body = Buffer.concat([
    pad(Buffer.from(request.header)),
    encodeAttributes(request.attributes ?? []),
  ]);
  const head = Buffer.alloc(nlmsghdr.size);
  head.writeUInt32LE(nlmsghdr.size + body.length, nlmsghdr.len);
  head.writeUInt16LE(request.type, nlmsghdr.type);
  head.writeUInt16LE(flags | (request.flags ?? 0), nlmsghdr.flags);
  head.writeUInt32LE(sequence, nlmsghdr.seq);
  return Buffer.concat([head, body]);
}

function decodeMessages(bytes: Buffer): Answer[] {
  const { nlmsghdr } = netlinkLayout;
  const found: Answer[] = [];
  for (let at = 0; at + nlmsghdr.size <= bytes.length;) {
    const length = bytes.readUInt32LE(at + nlmsghdr.len);
    if (length < nlmsghdr.size || at + length > bytes.length) break;
    found.push({
      type: bytes.readUInt16LE(at + nlmsghdr.type),
      flags: bytes.readUInt16LE(at + nlmsghdr.flags),
      sequence: bytes.readUInt32LE(at + nlmsghdr.seq),
      body: bytes.subarray(at + nlmsghdr.size, at + length),
    });
    at += align(length);
  }
  return found;
}

function pad(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(align(bytes.length) - bytes.length)]);
}

/** NLMSG_ALIGN and NLA_ALIGN. */
function align(length: number): number {
  return Math.ceil(length / 4) * 4;
}
