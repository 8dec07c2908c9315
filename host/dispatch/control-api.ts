/**
 * Everything that can be asked of the hosts besides calling functions: the subject is
 * `hatch.ctl.<verb>`, or `hatch.tenant.<tenant>.<verb>` for who may not speak for all; request and
 * reply are JSON. Host and command line share this table, so they cannot disagree; each checks what
 * it receives.
 */
import { z } from 'zod';
import { functionNamePattern, variableName } from '../function/manifest.ts';
import { volumeNamePattern } from '../function/volume-fields.ts';
import { sealedBoxSchema } from '../function/secret-box.ts';
import {
  burstReportSchema,
  burstRequestSchema,
  callRecordSchema,
  checkSchema,
  digestSchema,
  imageDetails,
  imageSchema,
  instanceSchema,
  layerBlobSchema,
  logRecordSchema,
  startRecordSchema,
  verifiedLayer,
} from './control-schemas.ts';

/**
 * Who answers: `one` host of the queue group, for what all know or what changes the whole; `all`
 * hosts, for what each has of its own.
 */
type Audience = 'one' | 'all';

interface Verb {
  audience: Audience;
  request: z.ZodType;
  reply: z.ZodType;
}

const name = z.string().regex(functionNamePattern, 'must be the name of a function');
const volumeName = z.string().regex(volumeNamePattern, 'must be the name of a volume');
const qualifier = z.string().min(1).max(63);
const requestId = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/, 'must be a request id');
/** Of an image. */
const reference = z.string().min(1).max(512);
const nothing = z.object({});

/** Of registries, by digest. */
const functionImages = z.object({
  image: z.string().exactOptional(),
  layers: z.array(z.string()),
});

export const controlApi = {
  ls: {
    audience: 'one',
    request: nothing,
    reply: z.object({
      functions: z.array(
        z.object({
          name: z.string(),
          latest: z.string(),
          versions: z.number(),
          aliases: z.record(z.string(), z.string()),
          deployedAtMs: z.number(),
        }),
      ),
    }),
  },
  versions: {
    audience: 'one',
    request: z.object({ name }),
    reply: z.object({
      versions: z.array(
        z.object({
          version: z.string(),
          isLatest: z.boolean(),
          aliases: z.array(z.string()),
          createdAtMs: z.number(),
          layerBytes: z.number(),
          digest: digestSchema,
          images: functionImages,
        }),
      ),
    }),
  },
  deploy: {
    audience: 'one',
    request: z.object({
      manifest: z.record(z.string(), z.unknown()),
      entryPath: z.string().startsWith('/function/').max(255),
      /** In the object store already. */
      layer: layerBlobSchema,
    }),
    reply: z.object({
      name: z.string(),
      version: z.string(),
      previousVersion: z.string().optional(),
      layerBytes: z.number(),
      images: functionImages,
      startRecord: startRecordSchema,
    }),
  },
  rm: { audience: 'one', request: z.object({ name }), reply: nothing },
  rollback: {
    audience: 'one',
    request: z.object({ name, to: qualifier.optional() }),
    reply: z.object({ from: z.string(), latest: z.string() }),
  },
  alias: {
    audience: 'one',
    /** Without a version the alias is removed. */
    request: z.object({ name, alias: qualifier, version: qualifier.optional() }),
    reply: z.object({ aliases: z.record(z.string(), z.string()) }),
  },
  cancel: {
    audience: 'all',
    request: z.object({ requestId }),
    /** How many calls of that id it has ended. */
    reply: z.object({ cancelled: z.number() }),
  },
  trace: {
    audience: 'all',
    request: z.object({ requestId }),
    reply: z.object({ record: callRecordSchema }),
  },
  logs: {
    audience: 'all',
    request: z.object({
      name,
      requestId: requestId.optional(),
      /** The newest so many. */
      limit: z.int().min(1).max(10_000),
    }),
    reply: z.object({ records: z.array(logRecordSchema) }),
  },
  'image.ls': {
    audience: 'all',
    request: nothing,
    reply: z.object({
      images: z.array(imageSchema),
      usedBytes: z.number(),
      heldBytes: z.number(),
      capacityBytes: z.number(),
    }),
  },
  'image.import': {
    audience: 'all',
    /** An OCI image layout, as a path on the hosts. */
    request: z.object({
      directory: z.string().startsWith('/').max(4096),
      reference: reference.optional(),
    }),
    reply: z.object({ image: imageSchema }),
  },
  'image.pin': {
    audience: 'all',
    request: z.object({ reference }),
    reply: z.object({ image: imageSchema }),
  },
  'image.unpin': {
    audience: 'all',
    request: z.object({ reference }),
    reply: z.object({ image: imageSchema }),
  },
  /** Fetches and holds the layers of functions that will be called; takes the place of the last. */
  'burst.pin': { audience: 'all', request: burstRequestSchema, reply: burstReportSchema },
  'burst.release': { audience: 'all', request: nothing, reply: nothing },
  'image.pull': {
    audience: 'all',
    /** Plain HTTP with `insecure`. */
    request: z.object({ reference, insecure: z.boolean().default(false) }),
    reply: z.object({ image: imageSchema }),
  },
  'image.progress': {
    audience: 'all',
    request: nothing,
    reply: z.object({
      pulls: z.array(
        z.object({ reference: z.string(), downloadedBytes: z.number(), totalBytes: z.number() }),
      ),
    }),
  },
  'image.push': {
    audience: 'all',
    /** From the store of the host of that name. */
    request: z.object({
      host: z.string().max(63),
      source: reference,
      target: reference,
      insecure: z.boolean().default(false),
    }),
    reply: z.object({ reference: z.string(), digest: digestSchema, sentBytes: z.number() }),
  },
  'image.inspect': { audience: 'all', request: z.object({ reference }), reply: imageDetails },
  'image.verify': {
    audience: 'all',
    /** Without a reference all layers. */
    request: z.object({ reference: reference.optional() }),
    reply: z.object({ layers: z.array(verifiedLayer) }),
  },
  'image.gc': {
    audience: 'all',
    /** With `images` also layers of images. */
    request: z.object({ images: z.boolean() }),
    reply: z.object({ layers: z.number(), freedBytes: z.number() }),
  },
  'image.rm': { audience: 'all', request: z.object({ reference }), reply: nothing },
  /** To seal secrets for the hosts: they never travel in the clear. */
  'secret.key': {
    audience: 'all',
    request: nothing,
    reply: z.object({ publicKey: z.string(), keyIds: z.array(z.string()) }),
  },
  'secret.ls': {
    audience: 'one',
    request: nothing,
    reply: z.object({
      secrets: z.array(
        z.object({
          name: z.string(),
          tenant: z.string(),
          setAtMs: z.number(),
          keyId: z.string(),
          usedBy: z.array(z.string()),
        }),
      ),
    }),
  },
  'secret.set': {
    audience: 'one',
    request: z.object({ name: variableName, box: sealedBoxSchema }),
    reply: z.object({ isNew: z.boolean() }),
  },
  'secret.rm': { audience: 'one', request: z.object({ name: variableName }), reply: nothing },
  'secret.rotate': { audience: 'one', request: nothing, reply: z.object({ resealed: z.number() }) },
  'volume.ls': {
    audience: 'all',
    request: nothing,
    reply: z.object({
      volumes: z.array(
        z.object({
          tenant: z.string(),
          functionName: z.string(),
          name: z.string(),
          usedBytes: z.number(),
          limitBytes: z.number().optional(),
          isUsed: z.boolean(),
        }),
      ),
    }),
  },
  'volume.rm': {
    audience: 'all',
    request: z.object({ functionName: name, name: volumeName }),
    /** Each host has those of functions that it was to run. */
    reply: z.object({ isRemoved: z.boolean() }),
  },
  status: {
    audience: 'all',
    request: nothing,
    reply: z.object({
      startedAtMs: z.number(),
      inFlight: z.number(),
      parked: z.number(),
      instances: z.array(instanceSchema),
      functions: z.number(),
    }),
  },
  doctor: {
    audience: 'all',
    request: nothing,
    reply: z.object({ checks: z.array(checkSchema) }),
  },
} as const satisfies Record<string, Verb>;

export type ControlApi = typeof controlApi;
export type ControlVerb = keyof ControlApi;
export type ControlRequest<V extends ControlVerb> = z.output<ControlApi[V]['request']>;
/** What a host hands out. */
export type ControlAnswer<V extends ControlVerb> = z.input<ControlApi[V]['reply']>;
/** What the asker gets. */
export type ControlReply<V extends ControlVerb> = z.output<ControlApi[V]['reply']>;
/** Verbs that one host answers, and verbs that each host answers. */
export type OneVerb = {
  [V in ControlVerb]: ControlApi[V]['audience'] extends 'one' ? V : never;
}[ControlVerb];
export type AllVerb = Exclude<ControlVerb, OneVerb>;

export type Check = z.output<typeof checkSchema>;

/** Whom a request speaks for: the tenant of its subject, or every one. */
export interface ControlScope {
  tenant: string | undefined;
}

/** What a tenant's deployer may ask, for functions and secrets of that tenant only. */
export const tenantVerbs: ReadonlySet<ControlVerb> = new Set<ControlVerb>([
  'versions',
  'deploy',
  'rm',
  'rollback',
  'alias',
  'secret.key',
  'secret.ls',
  'secret.set',
  'secret.rm',
  'volume.ls',
  'volume.rm',
]);

/** NATS permissions are by subject, so the tenant is in it; `*` is any. */
export function controlSubjectOf(verb: ControlVerb, { tenant }: ControlScope): string {
  const isScoped = tenant !== undefined && tenantVerbs.has(verb);
  return isScoped ? `hatch.tenant.${tenant}.${verb}` : `hatch.ctl.${verb}`;
}

/** Header of an answer: the host it is from. */
export const hostHeader = 'Hatch-Host';
