/**
 * Cuts the power of a VM that writes, and judges each file by what is left of it. A cut is what
 * QEMU's disks hold at a moment: lost is the memory of the guest, with what it has not written to
 * them yet. What they have taken is kept, flushed or not. The last cut of a machine kills it; for
 * those before, all of QEMU stands still while its disks are copied, which is the same.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Killed, type Machine } from '../../ops/vm/machine.ts';
import { runInVm } from '../../ops/vm/run.ts';
import type { Found } from './crash-found.ts';

/**
 * The version whose write had not returned; the version whose write had returned last; whole, but
 * of before that; parts of several, of none, or gone; not readable, and so not silent.
 */
export const outcomes = ['new', 'old', 'older', 'torn', 'error'] as const;
export type Outcome = (typeof outcomes)[number];

export interface CutsOptions {
  /** Those that `crash-disks.ts` knows. */
  fileSystems: readonly string[];
  /** Of one machine. */
  cuts: number;
}

export interface Judged {
  /** As in `Found`. */
  file: string;
  outcome: Outcome;
  /** Versions that had been written by then. */
  written: number;
}

interface Cut {
  disks: string[];
  written: ReadonlyMap<string, number>;
}

const diskBytes = 2 ** 29;
const limitMs = 150_000;
const betweenMs = { least: 300, most: 2000 };
/** What QEMU has sent is here by then. */
const arrivalMs = 50;
const node = 'exec node_modules/.bin/node';
const run = promisify(execFile);

/** Each file after each cut. At most 24 disks: cuts times file systems. */
export async function cutMachine(options: CutsOptions): Promise<Judged[]> {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-crash-'));
  try {
    return await judge(options.fileSystems, await writeAndCut(directory, options));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** `written` is the last version whose write has returned. */
export function outcomeOf(found: Found, written: number): Outcome {
  if (found.error !== undefined) return 'error';
  const [version = 0, ...others] = found.versions;
  if (!found.isFull || others.length > 0 || version === 0) return 'torn';
  if (version > written) return 'new';
  return version === written ? 'old' : 'older';
}

async function writeAndCut(directory: string, options: CutsOptions): Promise<Cut[]> {
  const disks = options.fileSystems.map((type) => makeDisk(join(directory, type)));
  const written = new Map<string, number>();
  const cuts: Cut[] = [];
  const { promise: writing, resolve: onWriting } = Promise.withResolvers<void>();
  const onLine = (line: string): void => {
    const [, file, version] = /^(.+): (\d+)$/.exec(line) ?? [];
    if (file !== undefined) written.set(file, Number(version));
    else if (line === 'writing') onWriting();
  };
  const cutRepeatedly = async (machine: Machine): Promise<void> => {
    await writing;
    for (let cut = 1; cut < options.cuts; cut++) {
      await sleep(betweenMs.least + Math.random() * (betweenMs.most - betweenMs.least));
      await machine.pause();
      await sleep(arrivalMs);
      cuts.push({ disks: await copies(disks, cut), written: new Map(written) });
      machine.resume();
    }
    await sleep(betweenMs.least);
    machine.kill();
  };
  let cutting: Promise<void> | undefined;
  const command = `${node} test/support/crash-writer.ts ${named(options.fileSystems, disks)}`;
  await runInVm({
    command,
    limitMs,
    disks,
    onOutput: byLine(onLine),
    onStart: (machine) => (cutting = cutRepeatedly(machine)),
  }).catch((error: unknown) => {
    if (!(error instanceof Killed)) throw error;
  });
  await cutting;
  return [...cuts, { disks, written }];
}

async function judge(fileSystems: readonly string[], cuts: Cut[]): Promise<Judged[]> {
  const disks = cuts.flatMap((cut) => cut.disks);
  const types = cuts.flatMap(() => fileSystems);
  const judged: Judged[] = [];
  let output = '';
  const onLine = (line: string): void => {
    output += `${line}\n`;
    const [, device = '', json] = /^\/dev\/vd(.) (\{.*)$/.exec(line) ?? [];
    if (json === undefined) return;
    const found = JSON.parse(json) as Found;
    const index = device.charCodeAt(0) - 'b'.charCodeAt(0);
    const written = cuts[Math.floor(index / fileSystems.length)]?.written.get(found.file) ?? 0;
    judged.push({ file: found.file, outcome: outcomeOf(found, written), written });
  };
  const command = `${node} test/support/crash-reader.ts ${named(types, disks)}`;
  const status = await runInVm({ command, limitMs, disks, onOutput: byLine(onLine) });
  if (status !== 0) throw new Error(`Cannot read what the cuts have left:\n${output}`);
  return judged;
}

/** `TYPE=DEVICE` for each; the VM's first disk is its own. */
function named(types: readonly string[], disks: readonly string[]): string {
  const letter = (index: number): string => String.fromCharCode('b'.charCodeAt(0) + index);
  return disks.map((_, index) => `${types[index]}=/dev/vd${letter(index)}`).join(' ');
}

async function copies(disks: readonly string[], cut: number): Promise<string[]> {
  const made: string[] = [];
  for (const disk of disks) {
    await run('cp', ['--sparse=always', disk, `${disk}-${cut}`]);
    made.push(`${disk}-${cut}`);
  }
  return made;
}

function byLine(onLine: (line: string) => void): (text: string) => void {
  let rest = '';
  return (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  };
}

function makeDisk(imageFile: string): string {
  writeFileSync(imageFile, '');
  truncateSync(imageFile, diskBytes);
  return imageFile;
}
