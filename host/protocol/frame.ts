/**
 * Frames on the stream between the host and one instance:
 *
 *     0        4     5        9
 *     +--------+-----+--------+------------------+
 *     | length | type| callId | body             |   integers little-endian;
 *     +--------+-----+--------+------------------+   length counts type, callId and body
 *
 * The host never parses a payload: it is the tail of a `call` or `result` body.
 */
export const frameType = {
  // Host to instance.
  specialise: 1,
  root: 2,
  call: 3,
  cancel: 4,
  // Instance to host.
  parked: 16,
  ready: 17,
  failed: 18,
  result: 19,
  error: 20,
  log: 21,
} as const;

export const frameHeaderBytes = 9;

/** Pieces of a frame from this size on are kept as they came until the frame is whole. */
const joinBelowBytes = 64 * 1024;

/** Above this a peer is broken or hostile: NATS itself stops at 64 MiB. */
export const frameBytesMax = 80 * 1024 * 1024;

export interface Frame {
  type: number;
  callId: number;
  /** A view into the received chunk: valid until the next `push`, unless it was copied. */
  body: Buffer;
}

/** One frame, its body given in parts that are written one behind the other. */
export function encodeFrame(type: number, callId: number, ...parts: Uint8Array[]): Buffer {
  let bodyBytes = 0;
  for (const part of parts) bodyBytes += part.length;
  const frame = Buffer.allocUnsafe(frameHeaderBytes + bodyBytes);
  writeFrameHeader(frame, { type, callId, bodyBytes });
  let offset = frameHeaderBytes;
  for (const part of parts) {
    frame.set(part, offset);
    offset += part.length;
  }
  return frame;
}

export function encodeJsonFrame(type: number, callId: number, body: unknown): Buffer {
  return encodeFrame(type, callId, Buffer.from(JSON.stringify(body)));
}

/** Writes the first nine bytes of a frame, for callers that build the body in place. */
export function writeFrameHeader(
  target: Buffer,
  options: { type: number; callId: number; bodyBytes: number },
): void {
  target.writeUInt32LE(options.bodyBytes + 5, 0);
  target[4] = options.type;
  target.writeUInt32LE(options.callId, 5);
}

/** Cuts a stream of chunks into frames. Throws on a length that no honest peer sends. */
export class FrameReader {
  readonly #bytesMax: number;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  /** Bytes the frame in progress needs before it can be cut; 4 while its length is unknown. */
  #needed = 4;

  constructor(options: { bytesMax: number } = { bytesMax: frameBytesMax }) {
    this.#bytesMax = options.bytesMax;
  }

  push(chunk: Buffer, onFrame: (frame: Frame) => void): void {
    // The usual case: whole frames in one chunk, no copy.
    let rest = chunk;
    if (this.#pendingBytes > 0) {
      this.#keep(chunk);
      if (this.#pendingBytes < this.#needed) return;
      rest = Buffer.concat(this.#pending);
      this.#pending = [];
      this.#pendingBytes = 0;
    }
    for (;;) {
      this.#needed = this.#frameBytes(rest);
      if (rest.length < this.#needed) break;
      onFrame({
        type: rest[4] ?? 0,
        callId: rest.readUInt32LE(5),
        body: rest.subarray(frameHeaderBytes, this.#needed),
      });
      rest = rest.subarray(this.#needed);
    }
    if (rest.length > 0) this.#keep(rest);
  }

  /**
   * A peer that sends single bytes must not cost a Buffer object for each: small neighbours are
   * joined, like with like, so that each byte is copied a few times at most.
   */
  #keep(chunk: Buffer): void {
    this.#pendingBytes += chunk.length;
    let last = chunk;
    for (let before = this.#pending.at(-1); before !== undefined; before = this.#pending.at(-1)) {
      if (before.length > last.length || before.length >= joinBelowBytes) break;
      this.#pending.pop();
      last = Buffer.concat([before, last]);
    }
    this.#pending.push(last);
  }

  #frameBytes(bytes: Buffer): number {
    if (bytes.length < 4) return 4;
    const length = bytes.readUInt32LE(0);
    if (length < 5 || length > this.#bytesMax)
      throw new RangeError(`A frame of ${length} bytes is outside 5 to ${this.#bytesMax}`);
    return 4 + length;
  }
}
