/** Fetches Debian packages with the machine's own apt, without installing or changing anything. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { extract } from 'tar-stream';
import { HatchError, messageOf } from '../host/base/errors.ts';
import type { LayerEntry } from '../host/image/layer-tar.ts';

export interface DebianPackage {
  name: string;
  /** The `.deb`. */
  file: string;
  sha256: string;
}

const execute = promisify(execFile);

/**
 * The packages by name, from `directory` where they are there already, else downloaded in the
 * version that apt prefers. apt checks signatures and digests.
 */
export async function fetchPackages(options: {
  names: readonly string[];
  directory: string;
  onProgress: (message: string) => void;
}): Promise<DebianPackage[]> {
  await mkdir(options.directory, { recursive: true });
  const present = await findPackages(options.directory);
  const missing = options.names.filter((name) => !present.has(name));
  if (missing.length > 0) {
    options.onProgress(`Downloading ${missing.length} Debian packages: ${missing.join(', ')}`);
    await download(missing, options);
  }
  const found = await findPackages(options.directory);
  return Promise.all(
    options.names.map(async (name) => {
      const file = found.get(name);
      if (file === undefined)
        throw new HatchError('image.invalid', `Cannot find package "${name}" after its download`);
      return { name, file, sha256: await sha256Of(file) };
    }),
  );
}

/** What a package installs; directories are left out, since a layer makes those it needs. */
export async function readPackage(file: string): Promise<LayerEntry[]> {
  const entries: LayerEntry[] = [];
  const extractor = extract();
  const dpkg = spawn('dpkg-deb', ['--fsys-tarfile', file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const failed = new Promise<never>((_resolve, reject) => {
    dpkg.once('error', reject);
    dpkg.once('close', (code) => {
      if (code !== 0) reject(new Error(`dpkg-deb ended with status ${code} on "${file}"`));
    });
  });
  const collected = (async () => {
    for await (const entry of extractor) {
      const chunks: Buffer[] = [];
      for await (const chunk of entry) chunks.push(chunk as Buffer);
      const made = layerEntry(entry.header, Buffer.concat(chunks));
      if (made !== undefined) entries.push(made);
    }
  })();
  await Promise.race([Promise.all([pipeline(dpkg.stdout, extractor), collected]), failed]);
  return entries;
}

interface PackageHeader {
  name: string;
  type: string;
  mode: number;
  linkname: string;
}

function layerEntry(header: PackageHeader, content: Buffer): LayerEntry | undefined {
  const path = relativePath(header.name);
  switch (header.type) {
    case 'directory':
      return undefined;
    case 'file':
      return { type: 'file', path, mode: header.mode & 0o7777, content };
    case 'symlink':
      return { type: 'symlink', path, target: header.linkname };
    case 'link':
      return { type: 'hardlink', path, target: relativePath(header.linkname) };
    default:
      throw new HatchError('image.invalid', `Cannot use "${path}": it is a ${header.type}`);
  }
}

function relativePath(name: string): string {
  return name.replace(/^\.?\/+/, '').replace(/\/$/, '');
}

async function download(
  names: readonly string[],
  options: { directory: string; onProgress: (message: string) => void },
): Promise<void> {
  // In a directory of its own, so that a broken download leaves nothing behind.
  const work = await mkdtemp(join(options.directory, 'download-'));
  try {
    await aptDownload(names, work, options.onProgress);
    for (const file of await readdir(work)) {
      if (file.endsWith('.deb')) await rename(join(work, file), join(options.directory, file));
    }
  } finally {
    await rm(work, { recursive: true });
  }
}

async function aptDownload(
  names: readonly string[],
  work: string,
  onProgress: (message: string) => void,
): Promise<void> {
  const cache = join(work, 'cache');
  const state = join(work, 'state');
  await mkdir(join(cache, 'archives', 'partial'), { recursive: true });
  await mkdir(join(state, 'lists', 'partial'), { recursive: true });
  const own = ['-q', '-o', `Dir::Cache=${cache}`, '-o', 'APT::Sandbox::User=root'];
  try {
    await execute('apt-get', [...own, 'download', ...names], { cwd: work });
    return;
  } catch (error) {
    onProgress(`Fetching package lists, as this machine's own do not suffice: ${lastLine(error)}`);
  }
  const lists = ['-o', `Dir::State=${state}`, '-o', 'Dir::State::status=/var/lib/dpkg/status'];
  try {
    await execute('apt-get', [...own, ...lists, 'update'], { cwd: work });
    await execute('apt-get', [...own, ...lists, 'download', ...names], { cwd: work });
  } catch (cause) {
    throw new HatchError(
      'image.invalid',
      `Cannot download Debian packages, check the network and apt's sources: ${lastLine(cause)}`,
      { cause },
    );
  }
}

function lastLine(error: unknown): string {
  return messageOf(error).trim().split('\n').at(-1) ?? '';
}

/** File by package name; apt names files `<package>_<version>_<architecture>.deb`. */
async function findPackages(directory: string): Promise<Map<string, string>> {
  const files = (await readdir(directory)).filter((file) => file.endsWith('.deb')).toSorted();
  return new Map(files.map((file) => [file.split('_')[0] ?? file, join(directory, file)]));
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
