/** The unit of ops/systemd under a real systemd, installed and used as README.md says. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { slowness } from './slowness.ts';

export interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

const repository = resolve(import.meta.dirname, '../..');
const installed = '/opt/hatchery';
const stateDirectory = '/var/lib/hatchery';
/** Settings as an operator has them, in variables of the host. */
const settingsFile = '/etc/default/hatchery';
/** As systemd names it: the slice of services, and the unit. */
export const serviceGroup = '/sys/fs/cgroup/system.slice/hatch.service';
const commandLimitMs = 60_000 * slowness;

/** Up to `systemctl daemon-reload`. */
export async function installUnit(): Promise<void> {
  symlinkSync(repository, installed);
  // Of the VM's own root no layer can be made: it is an overlay itself.
  mkdirSync(stateDirectory);
  await inFirstNamespace('mount', '--bind', mkdtempSync(join(tmpdir(), 'state-')), stateDirectory);
  copyFileSync(join(installed, 'ops/systemd/hatch.service'), '/etc/systemd/system/hatch.service');
  // Where the processor is emulated everything takes longer.
  const dropIn = '/etc/systemd/system/hatch.service.d';
  mkdirSync(dropIn);
  writeFileSync(join(dropIn, 'slow.conf'), `[Service]\nTimeoutStartSec=${300 * slowness}\n`);
  await ok('systemctl', 'daemon-reload');
}

/** Ends the service, and takes away what `installUnit` has brought. */
export async function removeUnit(): Promise<void> {
  await ok('systemctl', 'disable', '--now', 'hatch');
  await inFirstNamespace('umount', stateDirectory);
  rmdirSync(stateDirectory);
}

/** Of systemd, and so of what it starts: the tests have a mount namespace of their own. */
async function inFirstNamespace(...command: string[]): Promise<void> {
  await ok('nsenter', '--target', '1', '--mount', ...command);
}

export function writeSettings(settings: Record<string, string | number>): void {
  const all = {
    // To compile everything anew is most of a start where the processor is emulated.
    NODE_COMPILE_CACHE: join(repository, '.cache/compile'),
    ...settings,
  };
  const lines = Object.entries(all).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(settingsFile, lines.join(''));
}

/** As `systemctl show` tells. */
export async function stateOf<K extends string>(...properties: K[]): Promise<Record<K, string>> {
  const shown = await ok('systemctl', 'show', 'hatch', ...properties.map((name) => `-p${name}`));
  const pairs = shown.split('\n').map((line) => /^(\w+)=(.*)$/.exec(line)?.slice(1) ?? []);
  return Object.fromEntries(pairs) as Record<K, string>;
}

/** The command line, as root on the host's machine. */
export function hatch(...args: string[]): Promise<Run> {
  const [program, ...words] = commandLine(args);
  return run(program, ...words);
}

/** A value of `--json`. */
export async function hatchJson<T>(...args: string[]): Promise<T> {
  const [program, ...words] = commandLine([...args, '--json']);
  return JSON.parse(await ok(program, ...words)) as T;
}

/** Where the mounts are those of the unit: it finds the host by a file in the state directory. */
function commandLine(args: readonly string[]): [program: string, ...args: string[]] {
  const place = ['--target', '1', '--mount', `--wdns=${repository}`];
  return ['nsenter', ...place, join(installed, 'ops/hatch'), ...args];
}

export async function ok(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(program, ...args);
  assert.equal(code, 0, `${program} ${args.join(' ')}: ${stderr}`);
  return stdout.trim();
}

export async function run(program: string, ...args: string[]): Promise<Run> {
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: commandLimitMs,
  });
  const exit = once(child, 'exit');
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    exit,
  ]);
  return { code: typeof code === 'number' ? code : -1, stdout, stderr };
}

/** Below the unit's group, all levels. */
export function processesBelow(group = serviceGroup): number[] {
  if (!existsSync(group)) return [];
  const own = readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
  return [
    ...own.map(Number),
    ...groupsIn(group).flatMap((name) => processesBelow(join(group, name))),
  ];
}

export function groupsIn(group: string): string[] {
  const entries = readdirSync(group, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

/** From the mount of all groups down. */
export function groupOf(pid: number): string {
  return /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'latin1'))?.[1] ?? '';
}
