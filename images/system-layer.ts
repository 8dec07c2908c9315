/** The lowest layer: C library, certificates, time zones, a shell, users, and mount points. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HatchError } from '../host/base/errors.ts';
import type { LayerEntry } from '../host/image/layer-tar.ts';
import { readPackage } from './debian-packages.ts';
import type { DebianPackage } from './debian-packages.ts';
import type { Recipe } from './recipe.ts';

type Tree = Map<string, LayerEntry>;

const execute = promisify(execFile);
const busyboxPath = 'usr/bin/busybox';
const certificates = 'usr/share/ca-certificates/';
const certificateBundle = 'etc/ssl/certs/ca-certificates.crt';
const accountMasters = 'usr/share/base-passwd/';

export async function systemLayer(
  recipe: Recipe,
  packages: readonly DebianPackage[],
): Promise<LayerEntry[]> {
  const tree: Tree = new Map();
  const merge = (path: string) => mergedPath(path, recipe.symlinks);
  for (const { name, file } of packages) {
    for (const entry of await readPackage(file)) {
      if (isWanted(entry.path, name, recipe.debian)) add(tree, moveEntry(entry, merge));
    }
  }
  bundleCertificates(tree);
  addAccounts(tree, recipe.users);
  await linkApplets(tree, merge);
  for (const [path, target] of Object.entries(recipe.symlinks))
    add(tree, { type: 'symlink', path, target });
  for (const [path, content] of Object.entries(recipe.files))
    add(tree, { type: 'file', path, mode: 0o644, content });
  for (const directory of recipe.directories) add(tree, { type: 'directory', ...directory });
  return [...tree.values()];
}

function add(tree: Tree, entry: LayerEntry): void {
  tree.set(entry.path, entry);
}

function isWanted(path: string, packageName: string, debian: Recipe['debian']): boolean {
  const only = debian.keepOnly[packageName];
  if (only !== undefined && !only.some((prefix) => isBelow(path, prefix))) return false;
  return !debian.drop.some((prefix) => isBelow(path, prefix));
}

/** Whether `path` is `prefix` or something in it, `*` standing for any one name. */
function isBelow(path: string, prefix: string): boolean {
  const parts = path.split('/');
  return prefix.split('/').every((part, index) => part === '*' || part === parts[index]);
}

/** Packages still install into /lib and /bin, which are symlinks into /usr. */
function mergedPath(path: string, symlinks: Record<string, string>): string {
  const [first = '', ...rest] = path.split('/');
  const target = symlinks[first];
  return target === undefined || rest.length === 0 ? path : [target, ...rest].join('/');
}

function moveEntry(entry: LayerEntry, merge: (path: string) => string): LayerEntry {
  const path = merge(entry.path);
  return entry.type === 'hardlink'
    ? { ...entry, path, target: merge(entry.target) }
    : { ...entry, path };
}

/** What update-ca-certificates makes: all certificates in one file, which is what programs read. */
function bundleCertificates(tree: Tree): void {
  const paths = [...tree.keys()].filter((path) => path.startsWith(certificates)).toSorted();
  const texts = paths.map((path) => `${contentOf(tree, path).trimEnd()}\n`);
  for (const path of paths) tree.delete(path);
  add(tree, { type: 'file', path: certificateBundle, mode: 0o644, content: texts.join('') });
}

function addAccounts(tree: Tree, users: Recipe['users']): void {
  const passwd = users.map(
    ({ name, uid, gid, home }) => `${name}:x:${uid}:${gid}:${name}:${home}:/bin/sh\n`,
  );
  const group = users.map(({ name, gid }) => `${name}:x:${gid}:\n`);
  for (const [file, lines] of [
    ['passwd', passwd],
    ['group', group],
  ] as const) {
    const master = `${accountMasters}${file}.master`;
    const content = contentOf(tree, master) + lines.join('');
    add(tree, { type: 'file', path: `etc/${file}`, mode: 0o644, content });
    tree.delete(master);
  }
}

/** Asks busybox itself which commands it is; what a package brings is not replaced. */
async function linkApplets(tree: Tree, merge: (path: string) => string): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-image-'));
  try {
    const program = join(directory, 'busybox');
    await writeFile(program, bytesOf(tree, busyboxPath), { mode: 0o755 });
    const { stdout } = await execute(program, ['--list-full']);
    for (const applet of stdout.split('\n').filter(Boolean)) {
      const path = merge(applet);
      if (!tree.has(path)) add(tree, { type: 'symlink', path, target: `/${busyboxPath}` });
    }
  } finally {
    await rm(directory, { recursive: true });
  }
}

function contentOf(tree: Tree, path: string): string {
  return Buffer.from(bytesOf(tree, path)).toString('utf8');
}

function bytesOf(tree: Tree, path: string): Uint8Array | string {
  const entry = tree.get(path);
  if (entry?.type === 'file' && 'content' in entry) return entry.content;
  throw new HatchError('image.invalid', `Cannot build the image: its packages lack "/${path}"`);
}
