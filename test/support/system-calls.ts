/** Which system calls an instance may make, tried one by one. */
import assert from 'node:assert/strict';
import process from 'node:process';
import { argumentRules } from '../../host/security/argument-rules.ts';
import { compileProfile, profileVerdict } from '../../host/security/security.ts';
import { seccompCallNumber } from '../../host/sys/seccomp.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import { enter, type Probe } from './containers.ts';

const highestTried = 600;
const allNumbers = Array.from({ length: highestTried + 1 }, (_value, number) => number);
/** Of no call that there is; the bit of x32 is left to its own check. */
const unknownNumbers = [1023, 4095, 65_535, 0x3fff_ffff];
const SIGSYS = 31;
const SIGSEGV = 11;
const patienceMs = 10_000;

/**
 * uretprobe and uprobe of x86-64: Linux lets them past every filter from 6.14 on, and refuses them
 * by itself to whoever is not in a trampoline that the kernel made.
 */
const unfilteredCalls = new Map(
  process.arch === 'x64'
    ? [
        [335, 'signal 4'],
        [336, 'ENXIO'],
      ]
    : [],
);

interface Call {
  number: number;
  arguments: bigint[];
}

/** What became of one call, besides an errno. */
type Outcome = string;

/** Every call's outcome inside is what the profile says; the function needs 256 pids. */
export async function assertAllowedCalls(probe: Probe): Promise<void> {
  const calls = [0n, -1n].flatMap((value) =>
    [...allNumbers, ...unknownNumbers].map((number) => ({
      number,
      arguments: Array.from({ length: 6 }, () => value),
    })),
  );
  const satisfying = argumentRules.flatMap(({ call, tests }) => {
    const number = seccompCallNumber(call, compileProfile('node').architecture);
    if (number === undefined) return [];
    const values = Array.from({ length: 6 }, () => 0n);
    for (const { argument, equals } of tests) values[argument] = equals;
    return [{ number, arguments: values }];
  });
  const all: Call[] = [...calls, ...satisfying];
  const outcomes = await tryCalls(probe, 'native', all);

  const verdicts = all.map((call) => profileVerdict('node', call));
  // No refused call blocks: but on a busy machine it may take the host a while to refuse it.
  const late = all.flatMap((_call, at) =>
    outcomes[at] === 'blocked' && verdicts[at] !== 'allow' ? [at] : [],
  );
  const retried = await tryCalls(
    probe,
    'native',
    late.map((at) => all[at] ?? assert.fail()),
    patienceMs,
  );
  for (const [index, at] of late.entries()) outcomes[at] = retried[index] ?? '';
  const refused = new Set(['EPERM', 'ENOSYS']);
  const wrong = all.flatMap((call, index) => {
    const [verdict, outcome] = [verdicts[index], outcomes[index]];
    const isUnfiltered = unfilteredCalls.get(call.number) === outcome;
    const agrees =
      isUnfiltered || verdict === 'allow' ? outcome !== `signal ${SIGSYS}` : outcome === verdict;
    return agrees ? [] : [{ call, verdict, outcome }];
  });
  assert.deepEqual(wrong, []);
  const unknown = all.flatMap(({ number }, at) =>
    unknownNumbers.includes(number) ? [outcomes[at]] : [],
  );
  assert.deepEqual([...new Set(unknown)], ['ENOSYS']);
  // A refusal by the kernel itself looks like one by the filter: a call counts as allowed when it
  // got past both in one of its forms.
  const passed = numbersWhere(all, (index) => !refused.has(outcomes[index] ?? '')).filter(
    (number) => !unfilteredCalls.has(number),
  );
  const allowed = numbersWhere(all, (index) => verdicts[index] === 'allow');
  assert.deepEqual(passed, allowed);
  const { conditional, allowed: always } = compileProfile('node');
  assert.equal(allowed.length, new Set([...always.values(), ...conditional.values()]).size);
}

function numbersWhere(calls: Call[], condition: (index: number) => boolean): number[] {
  const numbers = calls.filter((_call, index) => condition(index)).map(({ number }) => number);
  return [...new Set(numbers)].toSorted((a, b) => a - b);
}

/** Other processors have one way to make a call. */
const foreignWays = process.arch === 'x64' ? (['x32', 'int80'] as const) : [];

/** Every call by another way than the native one ends its process. */
export async function assertForeignCallsKill(probe: Probe): Promise<void> {
  for (const way of foreignWays) {
    const calls = allNumbers.map((number) => ({ number, arguments: [0n, 0n, 0n, 0n, 0n, 0n] }));
    const outcomes = await tryCalls(probe, way, calls);
    // The same program does make such calls where no filter is: in a process that entered.
    const [unfiltered] = readOutcomes(
      enter(probe.functionPid, ['--mount', '--pid'], ['/function/probe', 'calls'], {
        input: lineOf(way, {
          number: way === 'x32' ? 39 : 20,
          arguments: [0n, 0n, 0n, 0n, 0n, 0n],
        }),
      }).stdout,
    );
    // A kernel without 32-bit calls has no such gate: nobody gets as far as to the filter.
    const isGone = way === 'int80' && unfiltered === `signal ${SIGSEGV}`;
    if (!isGone) assert.ok(unfiltered === 'ok' || unfiltered === 'ENOSYS', unfiltered);
    assert.deepEqual([...new Set(outcomes)], [`signal ${isGone ? SIGSEGV : SIGSYS}`]);
  }
}

export async function tryCalls(
  probe: Probe,
  way: string,
  calls: Call[],
  blockedAfterMs = 300,
): Promise<Outcome[]> {
  if (calls.length === 0) return [];
  const input = calls.map((call) => lineOf(way, call)).join('');
  const command = ['/function/probe', 'calls', String(blockedAfterMs)];
  const result = await probe.ask<RunResult>({ do: 'run', command, input }, { timeoutMs: 60_000 });
  assert.equal(result.status, 0, JSON.stringify(result).slice(-500));
  const outcomes = readOutcomes(result.stdout);
  assert.equal(outcomes.length, calls.length);
  return outcomes;
}

function lineOf(way: string, call: Call): string {
  const values = call.arguments.map((value) => BigInt.asIntN(64, value));
  return `${way} ${call.number} ${values.join(' ')}\n`;
}

function readOutcomes(text: string): Outcome[] {
  const lines = text.trim().split('\n');
  return lines.map((line) => line.split(' ').slice(2).join(' '));
}
