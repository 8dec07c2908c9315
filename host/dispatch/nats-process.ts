/** Finds programs, and a nats-server that a killed host left behind. */
import { access, constants, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchError } from '../base/errors.ts';

/** Looks in PATH and where Debian keeps servers, which is not in everybody's PATH. */
export async function findBinary(name: string): Promise<string | undefined> {
  const directories = (process.env['PATH'] ?? '').split(':').filter((path) => path.startsWith('/'));
  for (const directory of [...directories, '/usr/local/sbin', '/usr/sbin', '/usr/bin']) {
    const path = join(directory, name);
    if (await isExecutable(path)) return path;
  }
  return undefined;
}

/** Writes down which server runs, for `endStaleServer` of the next host. */
export async function rememberServer(directory: string, run: ServerRun): Promise<void> {
  await writeFile(join(directory, runFileName), JSON.stringify(run), { mode: 0o600 });
}

/**
 * Ends the server that a host which is gone has left in `directory`. A process id may belong to
 * another program by now, so the command line must name our configuration.
 * @throws HatchError `host.start_failed` when the host that started it still lives
 */
export async function endStaleServer(directory: string): Promise<void> {
  const run = await readRun(directory);
  if (run === undefined || !(await isOurs(run.pid, directory))) return;
  // An orphan gets another parent: a server whose parent is its host is not stale.
  if ((await parentOf(run.pid)) === run.hostPid) {
    throw new HatchError(
      'host.start_failed',
      `Cannot use "${directory}": the host with process id ${run.hostPid} uses it; stop that ` +
        'host or configure another state directory',
    );
  }
  process.kill(run.pid, 'SIGTERM');
  if (!(await ended(run.pid, directory))) process.kill(run.pid, 'SIGKILL');
  await ended(run.pid, directory);
  await rm(join(directory, runFileName), { force: true });
}

interface ServerRun {
  pid: number;
  hostPid: number;
}

const runFileName = 'run.json';
const endTimeoutMs = 2000;
const pollMs = 20;

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

async function readRun(directory: string): Promise<ServerRun | undefined> {
  try {
    const run: unknown = JSON.parse(await readFile(join(directory, runFileName), 'utf8'));
    if (typeof run !== 'object' || run === null || !('pid' in run) || !('hostPid' in run)) {
      return undefined;
    }
    const { pid, hostPid } = run;
    return typeof pid === 'number' && typeof hostPid === 'number' && pid > 1
      ? { pid, hostPid }
      : undefined;
  } catch {
    // Missing, or cut off by a crash: then there is nothing to go by.
    return undefined;
  }
}

async function isOurs(pid: number, directory: string): Promise<boolean> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return commandLine.split('\0').includes(join(directory, 'nats.conf'));
}

async function parentOf(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  const parent = /^PPid:\s+(\d+)$/m.exec(status)?.[1];
  return parent === undefined ? undefined : Number(parent);
}

/** A zombie has no command line, so it counts as ended. */
async function ended(pid: number, directory: string): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < endTimeoutMs; waitedMs += pollMs) {
    if (!(await isOurs(pid, directory))) return true;
    await sleep(pollMs);
  }
  return false;
}
