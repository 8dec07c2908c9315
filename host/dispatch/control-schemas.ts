/** The larger parts of control messages, checked where they arrive. */
import { z } from 'zod';
import { fileAttributes, type CallRecord, type LogRecord } from '../base/channels.ts';
import { errorCodes } from '../base/errors.ts';
import type { ErrorCode } from '../base/errors.ts';
import { isolationLayerNames, type IsolationState } from '../base/isolation.ts';
import { functionNamePattern } from '../function/manifest.ts';
import { isDigest } from '../image/digest.ts';
import type { Digest } from '../image/digest.ts';

export const digestSchema = z.custom<Digest>(
  (value) => typeof value === 'string' && isDigest(value),
  'must be a sha256 digest',
);

export const layerBlobSchema = z.object({
  digest: digestSchema,
  diffId: digestSchema,
  sizeBytes: z.int().positive(),
  mediaType: z.string(),
});

const startPath = z.enum(['hot', 'parked', 'forked', 'booted']);
const step = z.object({ name: z.string(), startNs: z.number(), endNs: z.number() });

const isolationState = z.custom<IsolationState>(
  (value) => typeof value === 'string' && /^(?:enforced$|unavailable: )/.test(value),
);
const isolation = z.record(z.enum(isolationLayerNames), isolationState);

export const startRecordSchema = z.object({
  instanceId: z.string(),
  functionName: z.string(),
  functionVersion: z.string(),
  path: startPath,
  steps: z.array(step),
  startNs: z.number(),
  endNs: z.number(),
  isolation,
  readAheadBytes: z.number().exactOptional(),
});

const errorCode = z.custom<ErrorCode>(
  (value) => typeof value === 'string' && Object.hasOwn(errorCodes, value),
);

const copyUp = z.object({
  path: z.string(),
  bytesCopied: z.number(),
  bytesChanged: z.number().exactOptional(),
  attributesChanged: z.array(z.enum(fileAttributes)).exactOptional(),
  durationNs: z.number().exactOptional(),
  systemCall: z.string().exactOptional(),
});

/** JSON has no undefined: what is missing on the wire is undefined again here. */
export const callRecordSchema = z
  .object({
    requestId: z.string(),
    functionName: z.string(),
    functionVersion: z.string(),
    instanceId: z.string().optional(),
    subject: z.string(),
    traceparent: z.string().optional(),
    start: startPath.optional(),
    startRecord: startRecordSchema.optional(),
    receivedNs: z.number(),
    dispatchedNs: z.number().optional(),
    endNs: z.number(),
    requestBytes: z.number(),
    replyBytes: z.number(),
    error: z.object({ code: errorCode, message: z.string() }).optional(),
    copyUps: z.array(copyUp),
  })
  .transform((record): CallRecord => ({
    instanceId: undefined,
    traceparent: undefined,
    start: undefined,
    startRecord: undefined,
    dispatchedNs: undefined,
    error: undefined,
    ...record,
  }));

export const logRecordSchema = z
  .object({
    timeMs: z.number(),
    functionName: z.string(),
    functionVersion: z.string(),
    instanceId: z.string(),
    requestId: z.string().optional(),
    stream: z.enum(['stdout', 'stderr']),
    text: z.string(),
  })
  .transform((record): LogRecord => ({ requestId: undefined, ...record }));

export const instanceSchema = z.object({
  id: z.string(),
  functionName: z.string(),
  functionVersion: z.string(),
  state: z.string(),
  calls: z.number(),
});

export const imageSchema = z.object({
  reference: z.string(),
  digest: digestSchema,
  layers: z.number(),
  sizeBytes: z.number(),
  isPinned: z.boolean(),
});

export const burstRequestSchema = z.object({
  functions: z
    .array(
      z.object({
        name: z.string().regex(functionNamePattern, 'must be the name of a function'),
        /** Or alias; without it the latest. */
        version: z.string().min(1).max(63).optional(),
        /** Expected; only the proportions count. */
        calls: z.int().positive(),
      }),
    )
    .min(1)
    .max(10_000),
  forMs: z
    .int()
    .positive()
    .max(7 * 24 * 3_600_000),
});

export const burstReportSchema = z.object({
  /** Functions with all layers on the host's disk, held until the burst is over. */
  ready: z.array(z.string()),
  notReady: z.array(z.object({ name: z.string(), reason: z.string() })),
  pinnedBytes: z.number(),
  fetchedLayers: z.number(),
  fetchedBytes: z.number(),
  readAheadBytes: z.number(),
});

const strings = z.record(z.string(), z.string());

export const imageDetails = z.object({
  image: imageSchema,
  config: z.object({
    architecture: z.string(),
    os: z.string(),
    user: z.string(),
    env: strings,
    entrypoint: z.array(z.string()),
    command: z.array(z.string()),
    workingDirectory: z.string(),
    labels: strings,
  }),
  layers: z.array(
    z.object({
      digest: digestSchema,
      chainId: digestSchema,
      sizeBytes: z.number(),
      isPinned: z.boolean(),
    }),
  ),
  /** A registry's name, or a directory of the host. */
  from: z.string().optional(),
});

export const verifiedLayer = z.object({
  digest: digestSchema,
  chainId: digestSchema,
  differences: z.array(
    z.object({ path: z.string(), problem: z.enum(['changed', 'missing', 'unexpected']) }),
  ),
  /** Why it could not be verified. */
  unverified: z.string().optional(),
});

export const checkSchema = z.object({
  name: z.string(),
  /** warn: works without, but slower or with less; fail: functions cannot run. */
  status: z.enum(['ok', 'warn', 'fail']),
  detail: z.string(),
});
