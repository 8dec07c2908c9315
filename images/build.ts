/**
 * Builds a base image from its recipe into an OCI image layout. The same inputs give the same
 * digests; layers whose inputs have not changed come from the cache.
 *
 * Usage: node images/build.ts node24 --output DIR [--cache DIR] [--refresh] [--json]
 */
import { mkdir, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { messageOf } from '../host/base/errors.ts';
import { digestOf, hexOf, isDigest } from '../host/image/digest.ts';
import type { Digest } from '../host/image/digest.ts';
import { writeLayer } from '../host/image/layer-tar.ts';
import type { LayerBlob, LayerEntry } from '../host/image/layer-tar.ts';
import { hostPlatform } from '../host/image/manifest.ts';
import { writeImage } from '../host/image/oci-layout.ts';
import { isErrno } from '../host/sys/errors.ts';
import { fetchPackages } from './debian-packages.ts';
import { readRecipe } from './recipe.ts';
import type { Recipe } from './recipe.ts';
import { nodeLayer, runtimeLayer } from './runtime-layers.ts';
import { systemLayer } from './system-layer.ts';

export interface BuildOptions {
  recipe: Recipe;
  /** Becomes an OCI image layout with this one image. */
  outputDirectory: string;
  /** Packages and layers are kept here for the next build. */
  cacheDirectory: string;
  /** The program bundled as the runtime of containers. */
  runtimeEntry?: string;
  /** Downloads packages again, in their newest versions. */
  refresh?: boolean;
  onProgress?: (message: string) => void;
}

export interface BuiltImage {
  directory: string;
  reference: string;
  /** Of the manifest. */
  digest: Digest;
  layers: (LayerBlob & { name: string; cached: boolean })[];
}

interface LayerPlan {
  name: string;
  inputs: unknown;
  entries: () => Promise<LayerEntry[]>;
}

const root = dirname(import.meta.dirname);
const defaultRuntimeEntry = join(root, 'runtime-init', 'main.ts');
const blobSchema = z.object({
  digest: z.custom<Digest>((value) => typeof value === 'string' && isDigest(value)),
  sizeBytes: z.int(),
  diffId: z.custom<Digest>((value) => typeof value === 'string' && isDigest(value)),
  mediaType: z.string(),
});

export async function buildImage(options: BuildOptions): Promise<BuiltImage> {
  const { recipe, cacheDirectory } = options;
  const onProgress = options.onProgress ?? (() => {});
  const packageDirectory = join(cacheDirectory, 'packages', recipe.name);
  if (options.refresh === true) await rm(packageDirectory, { recursive: true, force: true });
  const packages = await fetchPackages({
    names: recipe.debian.packages,
    directory: packageDirectory,
    onProgress,
  });
  const node = await nodeLayer();
  const runtime = await runtimeLayer(options.runtimeEntry ?? defaultRuntimeEntry);
  const { env: _env, labels: _labels, ...contents } = recipe;
  const plans: LayerPlan[] = [
    {
      name: 'debian',
      inputs: { contents, packages: packages.map(({ name, sha256 }) => [name, sha256]) },
      entries: () => systemLayer(recipe, packages),
    },
    { name: 'node', inputs: node.inputs, entries: async () => node.entries },
    { name: 'runtime-init', inputs: runtime.inputs, entries: async () => runtime.entries },
  ];
  const layers: BuiltImage['layers'] = [];
  for (const plan of plans) layers.push(await makeLayer(plan, cacheDirectory, onProgress));
  const reference = `${recipe.name}:${node.version}`;
  const digest = await writeImage({
    directory: options.outputDirectory,
    reference,
    platform: hostPlatform(),
    config: configOf(recipe, { layers, nodeVersion: node.version }),
    layers: layers.map((layer) => ({
      file: cachedBlob(cacheDirectory, layer.digest),
      descriptor: { mediaType: layer.mediaType, digest: layer.digest, size: layer.sizeBytes },
    })),
  });
  return { directory: options.outputDirectory, reference, digest, layers };
}

async function makeLayer(
  plan: LayerPlan,
  cacheDirectory: string,
  onProgress: (message: string) => void,
): Promise<BuiltImage['layers'][number]> {
  const key = digestOf(JSON.stringify([plan.name, plan.inputs, await builderVersion()]));
  const record = join(cacheDirectory, 'layers', `${hexOf(key)}.json`);
  const cached = await readCached(record, cacheDirectory);
  if (cached !== undefined) return { ...cached, name: plan.name, cached: true };
  onProgress(`Building layer "${plan.name}"`);
  const unfinished = `${record}.${process.pid}.blob`;
  await mkdir(dirname(record), { recursive: true });
  await mkdir(join(cacheDirectory, 'blobs'), { recursive: true });
  try {
    const blob = await writeLayer({
      entries: await plan.entries(),
      destination: unfinished,
      compression: 'zstd',
    });
    await rename(unfinished, cachedBlob(cacheDirectory, blob.digest));
    await writeFile(`${record}.${process.pid}.new`, JSON.stringify(blob));
    await rename(`${record}.${process.pid}.new`, record);
    return { ...blob, name: plan.name, cached: false };
  } finally {
    await rm(unfinished, { force: true });
  }
}

async function readCached(record: string, cacheDirectory: string): Promise<LayerBlob | undefined> {
  try {
    const blob = blobSchema.parse(JSON.parse(await readFile(record, 'utf8')));
    const { size } = await stat(cachedBlob(cacheDirectory, blob.digest));
    return size === blob.sizeBytes ? blob : undefined;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function cachedBlob(cacheDirectory: string, digest: Digest): string {
  return join(cacheDirectory, 'blobs', hexOf(digest));
}

/** Layers depend on the code that makes them, and on the compressor inside Node. */
async function builderVersion(): Promise<string> {
  const files = (await readdir(import.meta.dirname)).filter((file) => file.endsWith('.ts'));
  const sources = [
    ...files.toSorted().map((file) => join(import.meta.dirname, file)),
    join(root, 'host', 'image', 'layer-tar.ts'),
  ];
  const texts = await Promise.all(sources.map((file) => readFile(file, 'utf8')));
  return digestOf(JSON.stringify([texts, process.versions['zstd']]));
}

function configOf(recipe: Recipe, built: { layers: BuiltImage['layers']; nodeVersion: string }) {
  const { layers, nodeVersion } = built;
  return {
    ...hostPlatform(),
    // The time of building would change the digest.
    created: '1970-01-01T00:00:01Z',
    config: {
      User: recipe.user,
      Env: Object.entries(recipe.env).map(([name, value]) => `${name}=${value}`),
      Entrypoint: recipe.entrypoint,
      WorkingDir: recipe.workingDirectory,
      Labels: { ...recipe.labels, 'org.opencontainers.image.version': nodeVersion },
    },
    rootfs: { type: 'layers' as const, diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(({ name }) => ({ created_by: `hatch image build: ${name}` })),
  };
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      output: { type: 'string' },
      cache: { type: 'string', default: join(root, '.cache', 'build') },
      refresh: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  });
  const [name, ...others] = positionals;
  if (name === undefined || others.length > 0 || values.output === undefined) {
    console.error(
      'Usage: node images/build.ts NAME --output DIR [--cache DIR] [--refresh] [--json]',
    );
    process.exitCode = 2;
    return;
  }
  const startMs = performance.now();
  const image = await buildImage({
    recipe: await readRecipe(name),
    outputDirectory: resolve(values.output),
    cacheDirectory: resolve(values.cache),
    refresh: values.refresh,
    onProgress: (message) => console.error(message),
  });
  if (values.json) console.log(JSON.stringify(image));
  else printImage(image, performance.now() - startMs);
}

function printImage(image: BuiltImage, durationMs: number): void {
  for (const { name, sizeBytes, cached } of image.layers) {
    const size = (sizeBytes / 1e6).toFixed(1).padStart(6);
    console.log(`${name.padEnd(14)} ${size} MB  ${cached ? 'unchanged' : 'built'}`);
  }
  console.log(`${image.reference} ${image.digest}`);
  console.log(`in "${image.directory}", ${(durationMs / 1000).toFixed(1)} s`);
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(messageOf(error));
    process.exitCode = 1;
  }
}
