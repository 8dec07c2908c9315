/**
 * Turns a function's folder into a layer: the bundle, its source map and the further files of the
 * manifest, below `/function`. Equal sources make equal bytes.
 */
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import { writeLayer } from '../image/layer-tar.ts';
import type { LayerBlob, LayerEntry } from '../image/layer-tar.ts';
import { compileEntry } from './compile.ts';
import type { CompiledEntry } from './compile.ts';
import { collectFiles } from './files.ts';
import type { FunctionManifest } from './manifest.ts';

export interface FunctionBundle {
  layer: LayerBlob;
  /** The gzip-compressed layer, in the output directory. */
  layerFile: string;
  /** What an instance loads: `/function/index.cjs`, or `.mjs` when the entry awaits at its top. */
  entryPath: string;
  /** Paths of all files as the function sees them. */
  files: string[];
  /** What esbuild found odd, as `file:line:column: text`. */
  warnings: string[];
}

/** The owner of everything below /function, and whom function code runs as. */
export const functionUid = 1000;
export const functionGid = 1000;

export const bundleLimits = {
  /** The bundle and its source map together. */
  bundleBytesMax: 64 * 1024 * 1024,
  /** All files of the layer together. */
  layerBytesMax: 512 * 1024 * 1024,
  filesMax: 10_000,
} as const;

/**
 * Bundles the function in `directory` and writes its layer to a new file in `outputDirectory`,
 * which the caller makes and removes.
 * @throws HatchError `deploy.invalid` with file, line and column of each problem in the sources
 */
export async function bundleFunction(options: {
  directory: string;
  manifest: FunctionManifest;
  outputDirectory: string;
}): Promise<FunctionBundle> {
  const { directory, manifest, outputDirectory } = options;
  const compiled = await compileEntry({ directory, entry: manifest.entry });
  const files = await collectFiles({ directory, patterns: manifest.files, outputDirectory });
  const entries = [...entriesOf(compiled), ...files.map(shippedEntry)];
  checkEntries(entries);
  checkSizes(compiled, files);
  const layerFile = join(outputDirectory, 'layer.tar.gz');
  const layer = await writeLayer({
    entries: [...directoriesOf(entries), ...entries],
    destination: layerFile,
    compression: 'gzip',
  });
  return {
    layer,
    layerFile,
    entryPath: `/function/${compiled.fileName}`,
    files: entries.map(({ path }) => `/${path}`),
    warnings: compiled.warnings,
  };
}

function entriesOf({ fileName, code, map }: CompiledEntry): LayerEntry[] {
  return [
    { ...ownedFile(fileName, 0o644), content: code },
    { ...ownedFile(`${fileName}.map`, 0o644), content: map },
  ];
}

function shippedEntry({ path, file, mode }: { path: string; file: string; mode: number }) {
  return { ...ownedFile(path, mode), file };
}

function ownedFile(path: string, mode: number) {
  return {
    type: 'file' as const,
    path: `function/${path}`,
    mode,
    uid: functionUid,
    gid: functionGid,
  };
}

/** The directories belong to the function too: it may write beside its files (by copy-up). */
function directoriesOf(entries: LayerEntry[]): LayerEntry[] {
  const paths = new Set<string>();
  for (const { path } of entries) {
    const parts = path.split('/');
    for (let depth = 1; depth < parts.length; depth++) paths.add(parts.slice(0, depth).join('/'));
  }
  return [...paths].map((path) => ({
    type: 'directory',
    path,
    mode: 0o755,
    uid: functionUid,
    gid: functionGid,
  }));
}

function checkEntries(entries: LayerEntry[]): void {
  if (entries.length > bundleLimits.filesMax) {
    throw tooLarge(`${entries.length} files`, `${bundleLimits.filesMax} files`);
  }
  const paths = new Set<string>();
  for (const { path } of entries) {
    if (paths.has(path)) {
      throw new HatchError(
        'deploy.invalid',
        `Cannot ship "/${path}": rename the file, the bundle has one of that name`,
      );
    }
    paths.add(path);
  }
}

function checkSizes(compiled: CompiledEntry, files: { sizeBytes: number }[]): void {
  const bundleBytes = compiled.code.byteLength + compiled.map.byteLength;
  if (bundleBytes > bundleLimits.bundleBytesMax) {
    throw tooLarge(`a bundle of ${bundleBytes} bytes`, `${bundleLimits.bundleBytesMax}`);
  }
  const layerBytes = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, bundleBytes);
  if (layerBytes > bundleLimits.layerBytesMax) {
    throw tooLarge(`a layer of ${layerBytes} bytes`, `${bundleLimits.layerBytesMax}`);
  }
}

function tooLarge(what: string, limit: string): HatchError {
  return new HatchError('deploy.invalid', `Cannot ship ${what}: at most ${limit} are allowed`, {
    details: { ...bundleLimits },
  });
}
