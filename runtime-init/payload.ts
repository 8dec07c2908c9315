/** Between the bytes of a message and the values a handler sees. */
import type { ErrorCode } from '../host/base/errors.ts';
import { frameBytesMax } from '../host/protocol/frame.ts';
import { resultEncoding } from '../host/protocol/invoke.ts';

/** A call that failed for a reason with a code of its own. */
export class CallFailure extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

const nothing = Buffer.alloc(0);

/**
 * JSON arrives parsed, anything else as bytes, no payload as undefined. A `Content-Type` header
 * that does not say JSON keeps even what would parse as bytes.
 */
export function decodeEvent(
  payload: Buffer,
  headers: Readonly<Record<string, readonly string[]>>,
): unknown {
  if (payload.length === 0) return undefined;
  const type = headers['Content-Type']?.[0] ?? headers['content-type']?.[0];
  if (type === undefined || type.includes('json')) {
    try {
      return JSON.parse(payload.toString('utf8'));
    } catch {
      // Not JSON, then: the function gets what was sent.
    }
  }
  // A copy of its own: the frame's memory is reused.
  return new Uint8Array(payload);
}

export function encodeResult(value: unknown): [encoding: number, bytes: Uint8Array] {
  if (value === undefined) return [resultEncoding.none, nothing];
  const raw = bytesIn(value);
  const encoding = raw === undefined ? resultEncoding.json : resultEncoding.bytes;
  const bytes = raw ?? Buffer.from(toJson(value));
  if (bytes.length > frameBytesMax / 2)
    throw new CallFailure(
      'function.result_too_large',
      `The handler returned ${bytes.length} bytes: at most ${frameBytesMax / 2} can be sent`,
    );
  return [encoding, bytes];
}

function bytesIn(value: unknown): Uint8Array | undefined {
  if (ArrayBuffer.isView(value))
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return value instanceof ArrayBuffer ? new Uint8Array(value) : undefined;
}

function toJson(value: unknown): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (error) {
    throw invalidResult(error instanceof Error ? error.message : String(error));
  }
  if (json === undefined) throw invalidResult(`a ${typeof value} has no JSON form`);
  return json;
}

function invalidResult(reason: string): CallFailure {
  return new CallFailure(
    'function.result_invalid',
    `The handler returned what cannot be sent as JSON: ${reason}`,
  );
}
