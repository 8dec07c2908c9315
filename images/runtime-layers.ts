/** The upper layers: Node's binary, and our own runtime, bundled to one file. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { arch } from 'node:process';
import { build } from 'esbuild';
import { z } from 'zod';
import { HatchError } from '../host/base/errors.ts';
import { compileEntry } from '../host/function/compile.ts';
import type { LayerEntry } from '../host/image/layer-tar.ts';

const root = dirname(import.meta.dirname);
const runtimeDirectory = 'hatch';
const packageSchema = z.object({ version: z.string() });

export interface NodeLayer {
  entries: LayerEntry[];
  version: string;
  /** Changes when the binary does. */
  inputs: unknown;
}

/** The Node that the host itself runs on. */
export async function nodeLayer(): Promise<NodeLayer> {
  const directory = packageDirectory(`node-linux-${arch}`);
  const file = join(directory, 'bin', 'node');
  const { version } = await readPackageJson(directory);
  // Digesting 120 MB each time would be most of a build without changes.
  const { size, mtimeMs } = await stat(file);
  return {
    version,
    inputs: { version, size, mtimeMs },
    entries: [{ type: 'file', path: 'usr/local/bin/node', mode: 0o755, file }],
  };
}

/** `entry` bundled as `/hatch/runtime-init.cjs`, its source map and koffi beside it. */
export async function runtimeLayer(entry: string): Promise<{
  entries: LayerEntry[];
  inputs: unknown;
}> {
  const entries = [
    ...(await bundleRuntime(entry)),
    zygoteEntry,
    await rehearsalEntry(),
    ...(await koffiEntries()),
  ];
  const inputs = entries.map((one) => [
    one.path,
    'content' in one ? createHash('sha256').update(one.content).digest('hex') : one.type,
  ]);
  return { entries, inputs };
}

/**
 * Loads the runtime with every function of it compiled. What a container's processes do first the
 * zygote never does itself, so that each of them would compile it, in memory of its own.
 */
const zygoteEntry: LayerEntry = {
  type: 'file',
  path: `${runtimeDirectory}/zygote.cjs`,
  mode: 0o644,
  content: "require('node:v8').setFlagsFromString('--no-lazy');\nrequire('./runtime-init.cjs');\n",
};

/** Compiled as functions are: what loading it touches is what loading any other does. */
async function rehearsalEntry(): Promise<LayerEntry> {
  const directory = join(import.meta.dirname, 'rehearsal');
  const { code } = await compileEntry({ directory, entry: 'handler.ts' });
  return { type: 'file', path: `${runtimeDirectory}/rehearsal.cjs`, mode: 0o644, content: code };
}

async function bundleRuntime(entry: string): Promise<LayerEntry[]> {
  const { outputFiles } = await build({
    // Paths in the source map are relative to these two: the same wherever the project lies.
    absWorkingDir: root,
    outfile: join(runtimeDirectory, 'runtime-init.cjs'),
    entryPoints: [entry],
    bundle: true,
    write: false,
    platform: 'node',
    format: 'cjs',
    target: 'node24',
    external: ['koffi'],
    sourcemap: 'linked',
    sourcesContent: false,
    legalComments: 'none',
    logLevel: 'silent',
  });
  return outputFiles.map(({ path, contents }) => ({
    type: 'file',
    path: relative(root, path),
    mode: 0o644,
    content: contents,
  }));
}

/** What koffi needs at run time: its loader, and the binary for this C library and processor. */
async function koffiEntries(): Promise<LayerEntry[]> {
  const loader = packageDirectory('koffi');
  const native = packageDirectory(`@koromix/koffi-linux-${arch}`);
  const loaderFiles = ['index.cjs', 'src/koffi/index.cjs', 'src/koffi/src/static.cjs'];
  const files: [from: string, name: string, paths: string[]][] = [
    [loader, 'koffi', ['package.json', 'LICENSE.txt', ...loaderFiles]],
    [
      native,
      `@koromix/koffi-linux-${arch}`,
      ['package.json', 'index.js', `linux_${arch}/koffi.node`],
    ],
  ];
  return Promise.all(
    files.flatMap(([from, name, paths]) =>
      paths.map(async (path) => ({
        type: 'file' as const,
        path: `${runtimeDirectory}/node_modules/${name}/${path}`,
        mode: path.endsWith('.node') ? 0o755 : 0o644,
        content: await readFile(join(from, path)),
      })),
    ),
  );
}

/** Not `require.resolve(name/package.json)`: koffi's export map hides that file. */
function packageDirectory(name: string): string {
  const paths = createRequire(import.meta.url).resolve.paths(name) ?? [];
  const found = paths.map((path) => join(path, name)).find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new HatchError('image.invalid', `Cannot find package "${name}": run "npm ci"`);
}

async function readPackageJson(directory: string): Promise<{ version: string }> {
  return packageSchema.parse(JSON.parse(await readFile(join(directory, 'package.json'), 'utf8')));
}
