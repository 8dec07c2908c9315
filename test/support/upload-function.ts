/** Bundles a function and puts its layer into the object store, as `hatch deploy` does. */
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { bundleFunction } from '../../host/function/bundle.ts';
import {
  parseManifest,
  readManifest,
  type FunctionManifest,
} from '../../host/function/manifest.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';
import type { LayerBlob } from '../../host/image/layer-tar.ts';

/** A function whose files the test brings itself. */
export interface InlineFunction {
  manifest: { name: string } & Record<string, unknown>;
  'handler.ts': string;
  /** Further files by name; list them in the manifest's `files` to ship them. */
  extraFiles?: Record<string, string | Uint8Array>;
}

/** What the control verb `deploy` wants. */
export interface Upload {
  manifest: FunctionManifest;
  entryPath: string;
  layer: LayerBlob;
}

const repository = resolve(import.meta.dirname, '../..');

/**
 * @param fn a folder, relative to the repository or absolute, or the files themselves
 * @param changes replace fields of its manifest
 */
export async function uploadFunction(
  connection: NatsConnection,
  fn: string | InlineFunction,
  changes: Record<string, unknown> = {},
): Promise<Upload> {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-bundle-'));
  try {
    const source = typeof fn === 'string' ? resolve(repository, fn) : join(directory, 'source');
    if (typeof fn !== 'string') await writeFunction(source, fn);
    const manifest = parseManifest({ ...(await readManifest(source)), ...changes });
    const outputDirectory = join(directory, 'output');
    await mkdir(outputDirectory);
    const bundle = await bundleFunction({ directory: source, manifest, outputDirectory });
    const { entryPath, layer, layerFile } = bundle;
    const registry = await FunctionRegistry.open(connection);
    try {
      await registry.putLayer(createReadStream(layerFile), layer.digest);
    } finally {
      await registry.close();
    }
    return { manifest, entryPath, layer };
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function writeFunction(directory: string, fn: InlineFunction): Promise<void> {
  const files = {
    'function.json': JSON.stringify({ entry: 'handler.ts', ...fn.manifest }),
    'handler.ts': fn['handler.ts'],
    ...fn.extraFiles,
  };
  for (const [name, content] of Object.entries(files)) {
    const path = join(directory, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content, { mode: 0o755 });
  }
}
