/**
 * The diagnostics channels of the host. The code that does the work publishes; telemetry and tests
 * subscribe. Publishing to a channel without a subscriber costs one check, so guard the making of a
 * message with `hasSubscribers` on hot paths.
 */
import { channel } from 'node:diagnostics_channel';
import type { ErrorCode } from './errors.ts';
import type { Isolation } from './isolation.ts';

/** How an instance came to serve its call; `Hatch-Start` in a reply. */
export type StartPath = 'hot' | 'parked' | 'forked' | 'booted';

/** The steps of a start, in about the order of a forked one; no start has others. */
export const stepNames = [
  'egress',
  'fork',
  'cgroup',
  'network',
  'namespaces',
  'limits',
  'overlay',
  'rootfs',
  'drop',
  'load',
] as const;
export type StepName = (typeof stepNames)[number];

/** One timed step. Times are CLOCK_MONOTONIC nanoseconds, the same clock in every process. */
export interface Step {
  name: string;
  startNs: number;
  endNs: number;
}

/** A lower file that overlayfs copied into the writable layer. */
export interface CopyUp {
  /** Absolute, as the function sees it. */
  path: string;
  /** What the kernel copied: the file's whole data at the time, or 0 if that was thrown away. */
  bytesCopied: number;
  /**
   * How much of the data then differed from the layer's, in blocks of 4 KiB; undefined when that
   * was not compared, as the file or the host's load was too large.
   */
  bytesChanged?: number;
  /** What else was not as in the layer; known when the data was compared. */
  attributesChanged?: FileAttribute[];
  /** How long the kernel took, and which system call made it, where an eBPF program tells. */
  durationNs?: number;
  systemCall?: string;
}

export const fileAttributes = ['mode', 'owner', 'times'] as const;
export type FileAttribute = (typeof fileAttributes)[number];

export interface StartRecord {
  instanceId: string;
  functionName: string;
  functionVersion: string;
  path: StartPath;
  steps: Step[];
  startNs: number;
  endNs: number;
  /** What isolates the instance; the records of a host's instances have one in common. */
  isolation: Isolation;
  /** Of its layers' files, read ahead because they might no longer have been in memory. */
  readAheadBytes?: number;
}

export interface CallRecord {
  requestId: string;
  functionName: string;
  functionVersion: string;
  instanceId: string | undefined;
  subject: string;
  /** W3C trace context of the caller, when it sent one. */
  traceparent: string | undefined;
  start: StartPath | undefined;
  /** Present when this call caused the start. */
  startRecord: StartRecord | undefined;
  receivedNs: number;
  /** When the call was handed to an instance; undefined when it never was. */
  dispatchedNs: number | undefined;
  endNs: number;
  requestBytes: number;
  replyBytes: number;
  error: { code: ErrorCode; message: string } | undefined;
  copyUps: CopyUp[];
}

/** A piece of output of a function, whole lines where the function wrote whole lines. */
export interface LogRecord {
  timeMs: number;
  functionName: string;
  functionVersion: string;
  instanceId: string;
  /** Undefined for what is written while no call runs. */
  requestId: string | undefined;
  stream: 'stdout' | 'stderr';
  text: string;
}

/** The steps of storing an image, in their order; those from `unpacked` on for each layer. */
export const pullStepNames = [
  'resolved',
  'downloaded',
  'unpacked',
  'listed',
  'moved',
  'recorded',
  'named',
] as const;

export const channels = {
  /** One of `pullStepNames`: that much of an image is on the disk. */
  pullStep: channel('hatchery:image:step'),
  /** CallRecord: a call has ended, well or not. */
  callEnd: channel('hatchery:call:end'),
  /** StartRecord: an instance is ready. */
  startEnd: channel('hatchery:start:end'),
  /** LogRecord: output of a function. */
  log: channel('hatchery:log'),
} as const;
