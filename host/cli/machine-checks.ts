/** What this machine has of what a host needs, as far as reading files tells; changes nothing. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { promisify } from 'node:util';
import { detectCgroupLayout } from '../cgroup/cgroup.ts';
import type { Check } from '../dispatch/control-api.ts';

const run = promisify(execFile);

export async function checkMachine(): Promise<Check[]> {
  const root = process.getuid?.() === 0;
  return [
    check(
      'root',
      root ? 'ok' : 'warn',
      root ? 'yes' : 'no: "hatch up" needs it, nothing else does',
    ),
    kernel(release()),
    cgroups(),
    await namespaces(),
    await fileSystem('overlay'),
    await seccomp(),
    node(process.version),
    await program('nats-server', ['--version']),
  ];
}

/** 5.12 is the first with idmapped mounts; 6.8 the first with `lowerdir+`. */
export function kernel(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  const isAtLeast = (wantedMajor: number, wantedMinor: number) =>
    major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
  if (!isAtLeast(5, 12)) return check('kernel', 'fail', `${version}: 5.12 has idmapped mounts`);
  const detail = isAtLeast(6, 8) ? version : `${version}: before 6.8 roots have fewer layers`;
  return check('kernel', 'ok', detail);
}

function cgroups(): Check {
  try {
    return check('cgroups', 'ok', detectCgroupLayout());
  } catch (error) {
    return check('cgroups', 'fail', error instanceof Error ? error.message : String(error));
  }
}

async function namespaces(): Promise<Check> {
  const wanted = ['user', 'pid', 'net', 'mnt', 'ipc', 'uts', 'cgroup'];
  const limits = await Promise.all(
    wanted.map(async (name) => ({
      name,
      max: Number(await read(`/proc/sys/user/max_${name}_namespaces`)),
    })),
  );
  const missing = limits.filter(({ max }) => !(max > 0)).map(({ name }) => name);
  if (missing.length > 0) {
    return check('namespaces', 'fail', `none of ${missing.join(', ')} may be made on this machine`);
  }
  return check('namespaces', 'ok', wanted.join(', '));
}

async function fileSystem(name: string): Promise<Check> {
  const listed = (await read('/proc/filesystems')).split('\n').some((line) => line.endsWith(name));
  if (listed) return check(name, 'ok', 'in the kernel');
  return check(name, 'warn', `not loaded: "modprobe ${name}" may bring it`);
}

async function seccomp(): Promise<Check> {
  const actions = (await read('/proc/sys/kernel/seccomp/actions_avail')).trim();
  if (actions.includes('errno')) return check('seccomp', 'ok', actions);
  return check('seccomp', 'fail', 'the kernel has no seccomp filters');
}

export function node(version: string): Check {
  if (version.startsWith('v24.')) return check('node', 'ok', version);
  return check('node', 'fail', `${version}: hosts run on Node 24, which ops/setup.sh installs`);
}

async function program(name: string, args: string[]): Promise<Check> {
  try {
    const { stdout, stderr } = await run(name, args, { timeout: 5000 });
    return check(name, 'ok', (stdout || stderr).trim().split('\n')[0] ?? '');
  } catch {
    return check(name, 'warn', 'not found: needed unless hosts join a NATS server of yours');
  }
}

async function read(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => '');
}

function check(name: string, status: Check['status'], detail: string): Check {
  return { name, status, detail };
}
