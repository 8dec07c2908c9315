/** The further files a function ships: found by globs in its folder or made by its `build.ts`. */
import { execFile } from 'node:child_process';
import { glob, lstat, mkdir, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { promisify } from 'node:util';
import { HatchError, messageOf } from '../base/errors.ts';

export interface ShippedFile {
  /** Relative to `/function`, with `/`. */
  path: string;
  /** Where it is now. */
  file: string;
  mode: number;
  sizeBytes: number;
}

const buildTimeoutMs = 120_000;

/**
 * Resolves `patterns` in `directory`. When there are any and the folder has a `build.ts`, that
 * runs first, as
 * `node build.ts OUTPUT` in the folder, and what it writes to OUTPUT is searched as well: so a
 * function can ship generated files without keeping them among its sources.
 * @throws HatchError `deploy.invalid` for a pattern without a file, a link or a failing build
 */
export async function collectFiles(options: {
  directory: string;
  patterns: string[];
  /** Generated files go to a directory `generated` in here. */
  outputDirectory: string;
}): Promise<ShippedFile[]> {
  const { directory, patterns, outputDirectory } = options;
  const roots = [directory];
  if (patterns.length > 0 && (await exists(join(directory, buildFileName)))) {
    const generated = join(outputDirectory, 'generated');
    await mkdir(generated);
    await runBuild(directory, generated);
    roots.push(generated);
  }
  const found = new Map<string, ShippedFile>();
  for (const pattern of patterns) {
    const matches = (await Promise.all(roots.map((root) => matchesIn(root, pattern)))).flat();
    if (matches.length === 0) {
      throw new HatchError(
        'deploy.invalid',
        `Cannot ship files "${pattern}": none found in "${directory}" or made by ${buildFileName}`,
      );
    }
    for (const match of matches) found.set(match.path, match);
  }
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

const buildFileName = 'build.ts';

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function runBuild(directory: string, generated: string): Promise<void> {
  try {
    await promisify(execFile)(process.execPath, [buildFileName, generated], {
      cwd: directory,
      timeout: buildTimeoutMs,
    });
  } catch (error) {
    throw new HatchError(
      'deploy.invalid',
      `Cannot run "${join(directory, buildFileName)}": ${messageOf(error).trim()}`,
      { cause: error },
    );
  }
}

async function matchesIn(root: string, pattern: string): Promise<ShippedFile[]> {
  const files: ShippedFile[] = [];
  for await (const match of glob(pattern, { cwd: root, exclude: ['**/node_modules/**'] })) {
    const file = join(root, match);
    const status = await lstat(file);
    if (status.isDirectory()) continue;
    if (!status.isFile()) {
      throw new HatchError(
        'deploy.invalid',
        `Cannot ship "${file}": only regular files can be shipped`,
      );
    }
    files.push({
      path: match.split(sep).join('/'),
      file,
      // Only the executable bit is the same on every machine; the rest is a matter of umask.
      mode: (status.mode & 0o100) === 0 ? 0o644 : 0o755,
      sizeBytes: status.size,
    });
  }
  return files;
}
