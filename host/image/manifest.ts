/** The JSON documents of an OCI image (and Docker's older names for the same), validated. */
import { arch } from 'node:process';
import { z } from 'zod';
import { HatchError } from '../base/errors.ts';
import { isDigest } from './digest.ts';
import type { Digest } from './digest.ts';

export const mediaType = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
} as const;
const indexTypes: string[] = [
  mediaType.index,
  'application/vnd.docker.distribution.manifest.list.v2+json',
];
const manifestTypes: string[] = [
  mediaType.manifest,
  'application/vnd.docker.distribution.manifest.v2+json',
];
const layerTypes: string[] = [
  'application/vnd.oci.image.layer.v1.tar',
  'application/vnd.oci.image.layer.v1.tar+gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd',
  'application/vnd.docker.image.rootfs.diff.tar',
  'application/vnd.docker.image.rootfs.diff.tar.gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd',
];
export const referenceAnnotation = 'org.opencontainers.image.ref.name';
const layersMax = 128;

const digest = z.custom<Digest>((value) => typeof value === 'string' && isDigest(value), {
  error: 'must be "sha256:" and 64 hexadecimal digits',
});
const strings = z.record(z.string(), z.string());
const platform = z.object({
  architecture: z.string(),
  os: z.string(),
  variant: z.string().optional(),
});
const descriptor = z.object({
  mediaType: z.string(),
  digest,
  size: z.int().nonnegative(),
  platform: platform.optional(),
  annotations: strings.optional(),
});
const indexSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  manifests: z.array(descriptor).max(1000),
});
const manifestSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  config: descriptor,
  layers: z.array(descriptor).min(1).max(layersMax),
  annotations: strings.optional(),
});
const configSchema = z.object({
  architecture: z.string(),
  os: z.string(),
  // Go writes empty lists and maps as null.
  config: z
    .object({
      User: z.string().nullish(),
      Env: z.array(z.string()).nullish(),
      Entrypoint: z.array(z.string()).nullish(),
      Cmd: z.array(z.string()).nullish(),
      WorkingDir: z.string().nullish(),
      Labels: strings.nullish(),
    })
    .nullish(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(digest) }),
});

export type Descriptor = z.infer<typeof descriptor>;
export type Platform = z.infer<typeof platform>;
export type ImageIndex = z.infer<typeof indexSchema>;
export type ImageManifest = z.infer<typeof manifestSchema>;

/** What a container needs to know of an image's configuration. */
export interface ImageConfig {
  architecture: string;
  os: string;
  user: string;
  env: Record<string, string>;
  entrypoint: string[];
  command: string[];
  workingDirectory: string;
  labels: Record<string, string>;
  diffIds: Digest[];
}

export function parseIndex(bytes: Uint8Array): ImageIndex {
  return parse('index', indexSchema, bytes);
}

export function parseManifest(bytes: Uint8Array): ImageManifest {
  const manifest = parse('manifest', manifestSchema, bytes);
  for (const layer of manifest.layers) {
    if (!layerTypes.includes(layer.mediaType))
      throw new HatchError(
        'image.invalid',
        `Cannot use image: layers of media type "${layer.mediaType}" are not supported`,
      );
  }
  return manifest;
}

export function parseConfig(bytes: Uint8Array): ImageConfig {
  const { architecture, os, config, rootfs } = parse('configuration', configSchema, bytes);
  return {
    architecture,
    os,
    user: config?.User ?? '',
    env: Object.fromEntries((config?.Env ?? []).map(splitVariable)),
    entrypoint: config?.Entrypoint ?? [],
    command: config?.Cmd ?? [],
    workingDirectory: config?.WorkingDir ?? '',
    labels: config?.Labels ?? {},
    diffIds: rootfs.diff_ids,
  };
}

/** What a registry may answer with. */
export const documentTypes: readonly string[] = [...indexTypes, ...manifestTypes];

export function isIndex(entry: Descriptor): boolean {
  return indexTypes.includes(entry.mediaType);
}

/** The platform of this machine in the words of OCI. */
export function hostPlatform(): Platform {
  return { os: 'linux', architecture: arch === 'x64' ? 'amd64' : arch };
}

/**
 * The one entry of an index for a reference name and a platform. An entry that names no platform
 * fits all; without `reference` the index must leave one choice only.
 */
export function selectEntry(
  index: ImageIndex,
  wanted: { platform: Platform; reference?: string },
): Descriptor {
  const images = index.manifests.filter(
    (entry) => isIndex(entry) || manifestTypes.includes(entry.mediaType),
  );
  const named = images.filter(
    ({ annotations }) =>
      wanted.reference === undefined || annotations?.[referenceAnnotation] === wanted.reference,
  );
  const fitting = named.filter((entry) => fits(entry.platform, wanted.platform));
  const [first, ...others] = fitting;
  const shown = `${wanted.platform.os}/${wanted.platform.architecture}`;
  const name = wanted.reference === undefined ? '' : ` "${wanted.reference}"`;
  if (first === undefined)
    throw new HatchError(
      'image.not_found',
      `Cannot find image${name} for ${shown}: the index has ${describe(images)}`,
    );
  if (others.some((other) => other.digest !== first.digest) && wanted.reference === undefined)
    throw new HatchError(
      'image.invalid',
      `Cannot choose an image for ${shown}: name one of ${describe(fitting)}`,
    );
  return first;
}

function fits(offered: Platform | undefined, wanted: Platform): boolean {
  if (offered === undefined) return true;
  return offered.os === wanted.os && offered.architecture === wanted.architecture;
}

function describe(entries: Descriptor[]): string {
  const names = entries.map(({ annotations, platform: of, digest: id }) => {
    const name = annotations?.[referenceAnnotation] ?? id;
    return of === undefined ? `"${name}"` : `"${name}" (${of.os}/${of.architecture})`;
  });
  return names.length === 0 ? 'no images' : names.join(', ');
}

function splitVariable(variable: string): [string, string] {
  const equals = variable.indexOf('=');
  return equals === -1 ? [variable, ''] : [variable.slice(0, equals), variable.slice(equals + 1)];
}

function parse<T>(what: string, schema: z.ZodType<T>, bytes: Uint8Array): T {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch (cause) {
    throw new HatchError('image.invalid', `Cannot read image ${what}: it is no JSON`, { cause });
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  throw new HatchError(
    'image.invalid',
    `Cannot read image ${what}: ${z.prettifyError(result.error)}`,
    { cause: result.error },
  );
}
