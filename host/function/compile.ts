/** One JavaScript file out of a function's entry and all it imports, by esbuild. */
import { resolve } from 'node:path';
import { build } from 'esbuild';
import type { BuildFailure, BuildOptions, Message } from 'esbuild';
import { HatchError } from '../base/errors.ts';

export interface CompiledEntry {
  fileName: 'index.cjs' | 'index.mjs';
  code: Uint8Array;
  /** Names its sources relative to the function's folder, and contains them. */
  map: Uint8Array;
  warnings: string[];
}

/**
 * Bundles `entry` (relative to `directory`) and what it imports from the folder and the
 * `node_modules` from there upwards. CommonJS, since a forked process loads it without waiting for
 * the event loop; an ES module only when the code awaits at its top level.
 * @throws HatchError `deploy.invalid`
 */
export async function compileEntry(options: {
  directory: string;
  entry: string;
}): Promise<CompiledEntry> {
  const directory = resolve(options.directory);
  try {
    return await compile({ directory, entry: options.entry, fileName: 'index.cjs' });
  } catch (error) {
    if (!isBuildFailure(error)) throw error;
    if (!error.errors.some(({ text }) => text.startsWith('Top-level await'))) {
      throw compileError(options.entry, error);
    }
  }
  try {
    return await compile({ directory, entry: options.entry, fileName: 'index.mjs' });
  } catch (error) {
    throw isBuildFailure(error) ? compileError(options.entry, error) : error;
  }
}

interface CompileOptions {
  directory: string;
  entry: string;
  fileName: CompiledEntry['fileName'];
}

async function compile(options: CompileOptions): Promise<CompiledEntry> {
  const { fileName } = options;
  let { outputFiles, warnings } = await build(buildOptions(options));
  // Making the URL takes longer than loading a small function, and few ask for it.
  if (fileName === 'index.cjs' && outputFiles.some(({ text }) => text.includes(moduleUrl)))
    ({ outputFiles, warnings } = await build({ ...buildOptions(options), banner: urlBanner }));
  const [map, code] = ['.map', fileName].map((ending) =>
    outputFiles.find(({ path }) => path.endsWith(ending)),
  );
  if (map === undefined || code === undefined) {
    throw new HatchError(
      'internal.bug',
      `Cannot find the output of esbuild for "${options.entry}"`,
    );
  }
  return {
    fileName,
    code: code.contents,
    map: map.contents,
    warnings: warnings.map(messageText),
  };
}

function buildOptions({ directory, entry, fileName }: CompileOptions) {
  return {
    ...(fileName === 'index.cjs' ? commonJs : esModule),
    absWorkingDir: directory,
    entryPoints: [resolve(directory, entry)],
    // Nothing is written; the name makes the map's sources relative to the folder.
    outfile: resolve(directory, fileName),
    write: false,
    allowOverwrite: true,
    bundle: true,
    platform: 'node',
    target: 'node24',
    sourcemap: 'linked',
    sourcesContent: true,
    charset: 'utf8',
    logLevel: 'silent',
  } as const satisfies BuildOptions;
}

/** What the URL of the bundle is called in one that has no `import.meta`. */
const moduleUrl = '__hatchModuleUrl';
const urlBanner = {
  js: `const ${moduleUrl} = require('node:url').pathToFileURL(__filename).href;`,
};

const commonJs: BuildOptions = {
  format: 'cjs',
  define: {
    'import.meta.url': moduleUrl,
    'import.meta.filename': '__filename',
    'import.meta.dirname': '__dirname',
  },
};

const esModule: BuildOptions = {
  format: 'esm',
  // CommonJS packages inside the bundle look for `require`. As a global it can't clash with a
  // `const require` of the function.
  banner: {
    js:
      "import { createRequire as __hatchCreateRequire } from 'node:module';" +
      'globalThis.require ??= __hatchCreateRequire(import.meta.url);',
  },
};

function isBuildFailure(error: unknown): error is BuildFailure {
  return error instanceof Error && 'errors' in error && Array.isArray(error.errors);
}

function compileError(entry: string, failure: BuildFailure): HatchError {
  const problems = failure.errors.map(messageText);
  return new HatchError('deploy.invalid', `Cannot bundle "${entry}": ${problems.join('\n')}`, {
    cause: failure,
    details: { problems },
  });
}

/** esbuild counts columns from 0, editors from 1. */
function messageText({ text, location }: Message): string {
  if (location === null) return text;
  return `${location.file}:${location.line}:${location.column + 1}: ${text}`;
}
