/** One boot of the VM: QEMU from its start to its end, whatever happens meanwhile. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  accessSync,
  closeSync,
  constants,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildInitramfs } from './initramfs.ts';
import type { Kernel } from './kernel.ts';

/** What runs the command: a script that is PID 1, or a unit of systemd, which then is. */
export type Init = 'script' | 'systemd';

export interface BootOptions {
  kernel: Kernel;
  repository: string;
  init: Init;
  /** A line of shell for the guest, run as root in the repository. */
  command: string;
  /** From QEMU's start to the guest's power-off. */
  limitMs: number;
  onOutput: (text: string) => void;
  /** Images of disks that stay, `/dev/vdb` and on in the guest. */
  disks?: readonly string[];
  onStart?: (machine: Machine) => void;
}

export interface Machine {
  /** Resolves when nothing of it runs any more, and nothing of it writes. */
  pause(): Promise<void>;
  resume(): void;
  /** As a power cut: its memory is lost, what its disks took is not. `boot` throws `Killed`. */
  kill(): void;
}

export class Killed extends Error {}

/** Until the guest says its first word. */
const bootLimitMs: Record<Init, number> = { script: 90_000, systemd: 180_000 };
const memoryMib = 4096;
const scratchBytes = 16 * 1024 ** 3;
const consoleCharsShown = 2000;

/** Resolves with the exit status of the command; throws when the VM did not get as far. */
export async function boot(options: BootOptions): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-vm-'));
  try {
    const files = prepare(directory, options);
    await runMachine(options, files);
    return statusIn(files);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Whether the processor runs the guest; otherwise QEMU translates it, some 6 times slower. */
export function isAccelerated(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    // Some machines have the device, and no processor that Debian's kernel would run on.
    return /^flags.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'latin1'));
  } catch {
    return false;
  }
}

type Files = ReturnType<typeof prepare>;

function prepare(directory: string, { kernel, command }: BootOptions) {
  const files = {
    initramfs: join(directory, 'initramfs'),
    scratch: join(directory, 'scratch'),
    console: join(directory, 'console'),
    status: join(directory, 'status'),
  };
  writeFileSync(files.initramfs, buildInitramfs(kernel, command));
  writeFileSync(files.status, '');
  writeFileSync(files.console, '');
  const scratch = openSync(files.scratch, 'w');
  ftruncateSync(scratch, scratchBytes);
  closeSync(scratch);
  execFileSync('mkfs.ext4', ['-q', files.scratch]);
  return files;
}

async function runMachine(options: BootOptions, files: Files): Promise<void> {
  // Should this process be killed, QEMU is too.
  const args = ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...qemuArgs(options, files)];
  // QEMU takes the end of its standard input for the other end of the guest's port being closed.
  const qemu = spawn('setpriv', args, { stdio: 'pipe' });
  let errors = '';
  qemu.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  let why: string | undefined;
  const endAfter = (ms: number, what: string): NodeJS.Timeout =>
    setTimeout(() => {
      why = `the VM did not ${what} within ${ms / 1000} s`;
      qemu.kill('SIGKILL');
    }, ms);
  const bootTimer = endAfter(bootLimitMs[options.init], 'boot');
  const limitTimer = endAfter(options.limitMs, 'end its tests');
  qemu.stdout.setEncoding('utf8').on('data', (text: string) => {
    clearTimeout(bootTimer);
    options.onOutput(text);
  });
  const stop = (): void => {
    why = 'it was interrupted';
    qemu.kill('SIGKILL');
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.once(signal, stop);
  let isKilled = false;
  const kill = (): void => {
    isKilled = qemu.kill('SIGKILL');
  };
  options.onStart?.({
    pause: () => pause(qemu),
    resume: () => void qemu.kill('SIGCONT'),
    kill,
  });
  try {
    await once(qemu, 'close');
  } finally {
    clearTimeout(bootTimer);
    clearTimeout(limitTimer);
    for (const signal of signals) process.off(signal, stop);
  }
  if (isKilled) throw new Killed('The VM was killed, as was asked for');
  if (why !== undefined) throw failure(why, files);
  if (qemu.exitCode !== 0) throw failure(`QEMU ended: ${errors || qemu.signalCode}`, files);
}

async function pause(qemu: ChildProcess): Promise<void> {
  qemu.kill('SIGSTOP');
  const tasks = `/proc/${qemu.pid}/task`;
  const runs = (task: string): boolean =>
    !/\) T /.test(readFileSync(`${tasks}/${task}/stat`, 'latin1'));
  // A thread that is in a system call ends it first.
  while (readdirSync(tasks).some(runs)) await sleep(1);
}

function qemuArgs(options: BootOptions, files: Files): string[] {
  const { kernel, repository, init, disks = [] } = options;
  const [accelerator, processor] = isAccelerated()
    ? ['kvm', 'host']
    : ['tcg,thread=multi', 'max,la57=off'];
  const root = 'path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap';
  return [
    ['-machine', 'q35', '-nodefaults', '-display', 'none', '-no-reboot'],
    ['-accel', accelerator, '-cpu', processor, '-smp', '2', '-m', `${memoryMib}M`],
    ['-kernel', kernel.imageFile, '-initrd', files.initramfs],
    ['-append', kernelCommandLine(repository, init), '-serial', `file:${files.console}`],
    ['-virtfs', `local,${root}`],
    ['-drive', `file=${files.scratch},format=raw,if=virtio,cache=unsafe`],
    ...disks.map((file) => ['-drive', `file=${file},format=raw,if=virtio,cache=writeback`]),
    ['-device', 'virtio-serial'],
    ['-chardev', 'stdio,id=output,signal=off'],
    ['-device', 'virtserialport,chardev=output,name=hatch.output'],
    ['-chardev', `file,id=status,path=${files.status}`],
    ['-device', 'virtserialport,chardev=status,name=hatch.status'],
  ].flat();
}

function kernelCommandLine(repository: string, init: Init): string {
  const variables = [`HATCH_REPOSITORY=${repository}`, `HATCH_INIT=${init}`];
  const words = ['console=ttyS0', 'quiet', 'panic=-1', ...variables];
  // The emulated clock is the only one that is read without leaving the guest, and nothing in it is
  // secret: what protects against speculation would cost time only.
  return [...words, 'tsc=reliable', 'mitigations=off'].join(' ');
}

function statusIn(files: Files): number {
  const status = readFileSync(files.status, 'utf8').trim();
  if (!/^\d+$/.test(status)) throw failure('the VM ended without a result', files);
  return Number(status);
}

function failure(what: string, files: Files): Error {
  const text = readFileSync(files.console, 'utf8').slice(-consoleCharsShown);
  return new Error(`Cannot finish: ${what.trim()}; its console ends with:\n${text}`);
}
