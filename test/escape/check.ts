/**
 * What an escape check is. The numbers to 81 are those of the project's checklist of container
 * escapes, the others are of what is our own. Each is tried from inside a real instance; and each
 * shows that what it tried would have worked, or been seen, without the layer that stops it:
 * outside, or as somebody with more rights.
 */
import assert from 'node:assert/strict';
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import process from 'node:process';
import type { HostConfig } from '../../host/config.ts';
import { appArmorProfile } from '../../host/security/labels.ts';
import { seccompCallNumber } from '../../host/sys/seccomp.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import type { Probe } from '../support/containers.ts';
import type { TestHost } from '../support/host.ts';

/** How the instances that are probed came to be. */
export type Path = 'forked' | 'parked' | 'booted';

export interface Subject {
  path: Path;
  host: TestHost;
  /** To start another host like it. */
  config: Partial<HostConfig>;
  /** A function with one instance, for all checks that leave it as it was. */
  probe: Probe;
  /** Another function's. */
  sibling: Probe;
  /** Another one yet, of this path, for a check of its own. */
  start: (manifest?: Record<string, unknown>) => Promise<Probe>;
  /** The program of `test/functions/probe`, for the host. */
  program: string;
  /** In the host's environment, and so in its memory; nowhere inside. */
  secret: string;
}

export interface Check {
  number: number;
  what: string;
  run: (subject: Subject) => Promise<void>;
  /** Why there is nothing to hold; `run` shows that it is so. */
  cannotApply?: string;
}

/** A system call with harmless arguments: where it is allowed it fails, or does next to nothing. */
export type Call = readonly [name: string, ...values: (number | bigint)[]];

export type Outcomes = Record<string, string>;

/** None of these blocks; but the host answers those that are refused, when it gets to it. */
const patienceMs = '10000';

/** Makes the calls in an instance, each in a process of its own. */
export async function callsInside(probe: Probe, calls: readonly Call[]): Promise<Outcomes> {
  const command = ['/function/probe', 'calls', patienceMs];
  const input = linesOf(calls);
  return outcomesOf(await probe.ask<RunResult>({ do: 'run', command, input }), calls);
}

/** The same outside, by root, in namespaces made for it. */
export function callsOutside(
  program: string,
  calls: readonly Call[],
  run: typeof outside = outside,
): Outcomes {
  return outcomesOf(run([program, 'calls', patienceMs], linesOf(calls)), calls);
}

/**
 * Runs a command as root of the host in namespaces of its own, so that it may do what it likes
 * without the machine noticing.
 */
export function outside(command: string[], input = ''): SpawnSyncReturns<string> {
  const kinds = ['--mount', '--uts', '--ipc', '--net', '--pid', '--fork', '--mount-proc'];
  const args = [...kinds, '--propagation', 'private', '--', ...command];
  return spawnSync('unshare', args, { encoding: 'utf8', input });
}

/** The same under AppArmor's profile, which the command is executed under. */
export function outsideUnderProfile(command: string[], input = ''): SpawnSyncReturns<string> {
  const script = 'echo "exec $0" >/proc/self/attr/apparmor/exec; exec "$@"';
  return outside(['sh', '-c', script, appArmorProfile, ...command], input);
}

/** Every call is refused inside, and outside the kernel itself has another answer to it. */
export async function assertRefused(
  { probe, program }: Pick<Subject, 'probe' | 'program'>,
  calls: readonly Call[],
  refusals: readonly string[] = ['EPERM'],
): Promise<void> {
  const inside = await callsInside(probe, calls);
  const wrong = Object.entries(inside).filter(([, outcome]) => !refusals.includes(outcome));
  assert.deepEqual(wrong, []);
  const without = callsOutside(program, calls);
  const same = Object.entries(without).filter(([, outcome]) => refusals.includes(outcome));
  assert.deepEqual(same, [], 'refused outside, too: this shows nothing');
}

/** A process of a host's user, with no other right: what anybody else on the machine could be. */
export function asUser(uid: number, command: string[]): SpawnSyncReturns<string> {
  const rights = [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', '--inh-caps=-all'];
  return spawnSync('setpriv', [...rights, '--', ...command], { encoding: 'utf8' });
}

export function numberOf(call: string): number | undefined {
  return seccompCallNumber(call, process.arch === 'arm64' ? 'arm64' : 'x64');
}

function known(calls: readonly Call[]): Call[] {
  return calls.filter(([name]) => numberOf(name) !== undefined);
}

function linesOf(calls: readonly Call[]): string {
  const lines = known(calls).map(([name, ...values]) => {
    const six = Array.from({ length: 6 }, (_, at) => BigInt.asIntN(64, BigInt(values[at] ?? 0)));
    return `native ${numberOf(name)} ${six.join(' ')}\n`;
  });
  return lines.join('');
}

function outcomesOf(
  result: { status: number | null; stdout: string; stderr: string },
  calls: readonly Call[],
): Outcomes {
  assert.equal(result.status, 0, result.stderr + result.stdout);
  const lines = result.stdout.trim().split('\n');
  const made = known(calls);
  assert.equal(lines.length, made.length, result.stdout);
  const labels = made.map(([name, ...values]) => `${name}(${values.join(', ')})`);
  return Object.fromEntries(
    labels.map((label, at) => [label, lines[at]?.split(' ').slice(2).join(' ') ?? '']),
  );
}
