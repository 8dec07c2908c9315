/** What the KV bucket `hatch_functions` holds: one pointer a function, one record a version. */
import { z } from 'zod';
import { HatchError } from '../base/errors.ts';
import { isDigest } from '../image/digest.ts';
import type { Digest } from '../image/digest.ts';
import type { LayerBlob } from '../image/layer-tar.ts';
import { functionNamePattern, parseManifest } from './manifest.ts';
import type { FunctionManifest } from './manifest.ts';

/** What its root is made of besides base image and bundle: names with digests. */
export interface FunctionImages {
  /** Below the base image. */
  image?: string;
  /** Above the base image, the lowest first. */
  layers: string[];
}

/** One deployment of a function. Never changed once written. */
export interface FunctionVersion {
  name: string;
  /** "1", "2", … in the order of deploying; a number is never given twice. */
  version: string;
  manifest: FunctionManifest;
  /** Where the bundle is in the container: `/function/index.cjs`. */
  entryPath: string;
  layer: LayerBlob;
  /** Of a registry, where the layer is; without it, the object store. */
  repository?: string;
  images: FunctionImages;
  createdAtMs: number;
}

/** Which versions of a function can be called. The one record of a function that changes. */
export interface FunctionState {
  name: string;
  /** The version that calls without a qualifier reach. */
  latest: string;
  /** Alias to version. */
  aliases: Record<string, string>;
  /** All versions that can be called or rolled back to, oldest first. */
  versions: string[];
  /** What `latest` has been, newest last. */
  history: { version: string; atMs: number }[];
  /** Of the record in KV; `activate` wants it back. */
  revision: number;
}

export const aliasPattern = /^[a-z][a-z0-9-]{0,62}$/;
/** The qualifier that always means the latest version, so no alias can be called so. */
export const latestQualifier = 'latest';

/** The NATS subject of a function, or of one version or alias of it. */
export function functionSubject(name: string, qualifier?: string): string {
  return qualifier === undefined ? `hatch.fn.${name}` : `hatch.fn.${name}.${qualifier}`;
}

/**
 * The function and qualifier that a subject names; undefined when it names none.
 * Accepts only what `functionSubject` makes, so that a caller can't reach other keys.
 */
export function parseFunctionSubject(
  subject: string,
): { name: string; qualifier: string | undefined } | undefined {
  const [hatch, fn, name, qualifier, ...rest] = subject.split('.');
  if (hatch !== 'hatch' || fn !== 'fn' || rest.length > 0) return undefined;
  if (name === undefined || !functionNamePattern.test(name)) return undefined;
  if (qualifier !== undefined && !isQualifier(qualifier)) return undefined;
  return { name, qualifier };
}

export const keys = {
  counter: (name: string) => `counter.${name}`,
  pointer: (name: string) => `pointer.${name}`,
  version: (name: string, version: string) => `version.${name}.${version}`,
  allPointers: 'pointer.*',
  allVersions: 'version.*.*',
  versionsOf: (name: string) => `version.${name}.*`,
} as const;

/** @throws HatchError `internal.bug` when the record is not one of ours */
export function decodeVersion(key: string, json: unknown): FunctionVersion {
  const record = decode(versionSchema, key, json);
  return { ...record, manifest: parseManifest(record.manifest) };
}

export function decodePointer(key: string, json: unknown, revision: number): FunctionState {
  return { ...decode(pointerSchema, key, json), revision };
}

/** The record of a state; the revision is KV's. */
export function encodePointer(state: FunctionState): string {
  return JSON.stringify(pointerSchema.parse(state));
}

const versionPattern = /^[1-9][0-9]{0,8}$/;
const version = z.string().regex(versionPattern);
const digest = z.custom<Digest>((value) => typeof value === 'string' && isDigest(value));

const versionSchema = z.object({
  name: z.string().regex(functionNamePattern),
  version,
  manifest: z.unknown(),
  entryPath: z.string().startsWith('/function/'),
  layer: z.object({
    digest,
    diffId: digest,
    sizeBytes: z.int().positive(),
    mediaType: z.string(),
  }),
  repository: z.string().exactOptional(),
  images: z
    .object({ image: z.string().exactOptional(), layers: z.array(z.string()) })
    .default({ layers: [] }),
  createdAtMs: z.number(),
});

const pointerSchema = z.object({
  name: z.string().regex(functionNamePattern),
  latest: version,
  aliases: z.record(z.string().regex(aliasPattern), version),
  versions: z.array(version),
  history: z.array(z.object({ version, atMs: z.number() })),
});

function isQualifier(text: string): boolean {
  return versionPattern.test(text) || aliasPattern.test(text);
}

function decode<Schema extends z.ZodType>(
  schema: Schema,
  key: string,
  json: unknown,
): z.output<Schema> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new HatchError('internal.bug', `Cannot read record "${key}": ${parsed.error.message}`, {
    cause: parsed.error,
  });
}
