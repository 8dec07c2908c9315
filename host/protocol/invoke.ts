/**
 * What travels in the frames between the host and an instance. Bodies are JSON but for payloads.
 */
import { encodeFrame, frameHeaderBytes, frameType, writeFrameHeader, type Frame } from './frame.ts';
import type { ErrorCode } from '../base/errors.ts';
import type { Step } from '../base/channels.ts';

/** The values of `seccomp` in function.json. */
export type SeccompProfile = 'node' | 'strict';

/** Makes a parked container an instance of one function. The root's mount comes beside it. */
export interface Specialisation {
  functionName: string;
  functionVersion: string;
  /** The bundle, as a path inside the container. */
  entry: string;
  memoryMb: number;
  seccomp: SeccompProfile;
  /** Added to what all functions get. */
  env: Record<string, string>;
  /** Secrets, files below `secretsDirectory`, whose values are to be in the environment too. */
  secretEnv?: string[];
  /** Absolute paths of its volumes, whose mounts come beside the root, as the last ones. */
  volumes?: string[];
  /** Absent for a function that may go nowhere. */
  network?: {
    /** A namespace comes beside this message, to be entered; else the container was made in it. */
    isSent: boolean;
    /** The contents of /etc/hosts and /etc/resolv.conf. */
    hosts: string;
    resolvers: string;
    /** Absent when it may use all. */
    connectTcpPorts?: readonly number[];
  };
}

/** Where a function finds its secrets. Their mount comes beside its root. */
export const secretsDirectory = '/run/secrets';

/** The instance's answer to a specialisation, and of an exec'd one to its start. */
export interface Ready {
  steps: Step[];
}

export interface Failed {
  code: ErrorCode;
  message: string;
}

export interface CallMetadata {
  requestId: string;
  subject: string;
  /** Message headers, each with all its values; absent when there are none. */
  headers?: Record<string, string[]>;
  attempt: number;
  /** What is left of the call's time. */
  timeoutMs: number;
}

/** Why a call failed inside the instance. */
export interface CallError {
  code: ErrorCode;
  message: string;
  /** The thrown error's name and source-mapped stack, when there is one. */
  name?: string;
  stack?: string;
}

/** First byte of a result's body: how the handler's value was encoded. */
export const resultEncoding = { bytes: 0, json: 1, none: 2 } as const;

/** Why a call is to end before it has: the one byte of a cancel frame's body. */
const cancelCause = { timeout: 0, caller: 1 } as const;
export type CancelCause = keyof typeof cancelCause;

export const logStream = { stdout: 1, stderr: 2 } as const;

/** A call's body: u32 length of the metadata, the metadata as JSON, the payload as it came. */
export function encodeCall(callId: number, metadata: CallMetadata, payload: Uint8Array): Buffer {
  const json = JSON.stringify(metadata);
  const jsonBytes = Buffer.byteLength(json);
  const payloadAt = frameHeaderBytes + 4 + jsonBytes;
  const frame = newFrame(frameType.call, callId, payloadAt + payload.length);
  frame.writeUInt32LE(jsonBytes, frameHeaderBytes);
  frame.write(json, frameHeaderBytes + 4);
  frame.set(payload, payloadAt);
  return frame;
}

export function decodeCall(frame: Frame): { metadata: CallMetadata; payload: Buffer } {
  const jsonBytes = frame.body.readUInt32LE(0);
  const metadata = JSON.parse(frame.body.toString('utf8', 4, 4 + jsonBytes)) as CallMetadata;
  return { metadata, payload: frame.body.subarray(4 + jsonBytes) };
}

export function encodeCancel(callId: number, cause: CancelCause): Buffer {
  return encodeFrame(frameType.cancel, callId, Uint8Array.of(cancelCause[cause]));
}

export function decodeCancel({ body }: Frame): CancelCause {
  return body[0] === cancelCause.caller ? 'caller' : 'timeout';
}

/** A result's body: its encoding, then its bytes. */
export function encodeResultFrame(callId: number, encoding: number, bytes: Uint8Array): Buffer {
  const bytesAt = frameHeaderBytes + 1;
  const frame = newFrame(frameType.result, callId, bytesAt + bytes.length);
  frame[frameHeaderBytes] = encoding;
  frame.set(bytes, bytesAt);
  return frame;
}

export function decodeJson<T>(frame: Frame): T {
  return JSON.parse(frame.body.toString('utf8')) as T;
}

/** Each call has one of these frames: its parts are written in place, not made and then copied. */
function newFrame(type: number, callId: number, frameBytes: number): Buffer {
  const frame = Buffer.allocUnsafe(frameBytes);
  writeFrameHeader(frame, { type, callId, bodyBytes: frameBytes - frameHeaderBytes });
  return frame;
}
