/**
 * What writes in a VM until that is cut off: `crash-writer.ts TYPE=DEVICE ...`, as root. It makes
 * the file systems and the first version of each file, says "writing", and goes on for ever. A file
 * consists of the number of its version, which is told on a line of its own once it is written.
 */
import fs from 'node:fs';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { attachMount } from '../../host/sys/mount.ts';
import { diskOf, fileBytes, placesFile, run, type OpenDriver, type Place } from './crash-disks.ts';
import { crashWays, type CrashWay } from './crash-found.ts';

interface Target extends Place {
  writeTo: string;
}

type Write = (path: string, content: Buffer) => Promise<void>;

const pauseMs = 10;
const writes: Record<CrashWay, Write> = {
  overwritten: (path, content) => writeFile({ path, content, flags: 'r+', sync: false }),
  'overwritten, fsync': (path, content) => writeFile({ path, content, flags: 'r+', sync: true }),
  replaced: (path, content) => replaceFile({ path, content, sync: false }),
  'replaced, fsync': (path, content) => replaceFile({ path, content, sync: true }),
};

await main();

async function main(): Promise<void> {
  fs.writeFileSync('/proc/sys/vm/dirty_writeback_centisecs', '20');
  fs.writeFileSync('/proc/sys/vm/dirty_expire_centisecs', '40');
  const targets: Target[] = [];
  for (const disk of process.argv.slice(2)) targets.push(...(await openDisk(disk)));
  const files = targets.flatMap((target) => crashWays.map((way) => ({ target, way })));
  for (const { target, way } of files) fs.writeFileSync(join(target.writeTo, way), contentOf(1));
  // Not fsync: an overlay root does not hand it on.
  run(['sync']);
  for (const { target, way } of files) tell(`${target.name}, ${way}: 1`);
  tell('writing');
  await Promise.all(files.map(({ target, way }) => writeForEver(target, way)));
}

async function writeForEver({ name, writeTo }: Target, way: CrashWay): Promise<void> {
  for (let version = 2; ; version++) {
    await writes[way](join(writeTo, way), contentOf(version));
    tell(`${name}, ${way}: ${version}`);
    // Those that wait for no disk would keep the others from the processor.
    await sleep(pauseMs);
  }
}

/** The file system itself, and the roots on it. */
async function openDisk(argument: string): Promise<Target[]> {
  const { type, device, path, fileSystem } = diskOf(argument);
  run(fileSystem.make(device));
  run(fileSystem.mount(device, path));
  const plain = join(path, 'plain');
  fs.mkdirSync(plain);
  const targets: Target[] = [{ name: type, writeTo: plain, directory: 'plain' }];
  for (const [name, open] of Object.entries(fileSystem.roots))
    targets.push(await openRoot({ name: `${type}, ${name}`, path, open }));
  fs.writeFileSync(join(path, placesFile), JSON.stringify(targets));
  return targets;
}

async function openRoot(options: {
  name: string;
  path: string;
  open: OpenDriver;
}): Promise<Target> {
  const { name, path, open } = options;
  const lower = join(path, 'lower');
  fs.mkdirSync(lower, { recursive: true });
  const driver = open(join(path, name));
  await driver.prepare([lower]);
  const request = { id: 'root', lowerDirectories: [lower], ownerUid: 0, ownerGid: 0 };
  const root = driver.createRoot(request);
  const writeTo = join('/run/hatch-crash/roots', name);
  fs.mkdirSync(writeTo, { recursive: true });
  attachMount(root.mountFd, writeTo);
  return { name, writeTo, directory: relative(path, root.upperDirectory) };
}

async function replaceFile(options: { path: string; content: Buffer; sync: boolean }) {
  const { path, sync } = options;
  await writeFile({ ...options, path: `${path}.next`, flags: 'w' });
  await fs.promises.rename(`${path}.next`, path);
  if (!sync) return;
  const directory = await fs.promises.open(join(path, '..'), 'r');
  await directory.sync();
  await directory.close();
}

async function writeFile(options: {
  path: string;
  content: Buffer;
  flags: string;
  sync: boolean;
}): Promise<void> {
  const file = await fs.promises.open(options.path, options.flags);
  await file.write(options.content, 0, options.content.length, 0);
  if (options.sync) await file.sync();
  await file.close();
}

function contentOf(version: number): Buffer {
  return Buffer.from(new Uint32Array(fileBytes / 4).fill(version).buffer);
}

/** Returns once the other side of the port has it: what was told is known after a cut. */
function tell(line: string): void {
  fs.writeSync(1, `${line}\n`);
}
