/**
 * What travels in the frames between the host and an instance. Bodies are JSON but for payloads.
 */
import { encodeFrame, frameType, type Frame } from './frame.ts';
import type { ErrorCode } from '../base/errors.ts';
import type { Step } from '../base/channels.ts';

/** Makes a parked container an instance of one function. The root's mount comes beside it. */
export interface Specialisation {
  functionName: string;
  functionVersion: string;
  /** The bundle, as a path inside the container. */
  entry: string;
  memoryMb: number;
  /** Added to what all functions get. */
  env: Record<string, string>;
}

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

export const logStream = { stdout: 1, stderr: 2 } as const;

/** A call's body: u32 length of the metadata, the metadata as JSON, the payload as it came. */
export function encodeCall(callId: number, metadata: CallMetadata, payload: Uint8Array): Buffer {
  const json = Buffer.from(JSON.stringify(metadata));
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32LE(json.length, 0);
  return encodeFrame(frameType.call, callId, length, json, payload);
}

export function decodeCall(frame: Frame): { metadata: CallMetadata; payload: Buffer } {
  const jsonBytes = frame.body.readUInt32LE(0);
  const metadata = JSON.parse(frame.body.toString('utf8', 4, 4 + jsonBytes)) as CallMetadata;
  return { metadata, payload: frame.body.subarray(4 + jsonBytes) };
}

export function decodeJson<T>(frame: Frame): T {
  return JSON.parse(frame.body.toString('utf8')) as T;
}
