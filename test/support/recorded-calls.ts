/**
 * The system calls of a workload, as `npm run record-syscalls` has seen them, beside the profile
 * that it ran under: what was refused, and what is allowed although nobody asked for it.
 */
import type { SeccompProfile } from '../../host/protocol/invoke.ts';
import { nodeProfile } from '../../host/security/profile-node.ts';
import { strictProfile } from '../../host/security/profile-strict.ts';
import type { Profile } from '../../host/security/profile.ts';
import { profileVerdict, type Verdict } from '../../host/security/security.ts';
import { seccompCallNumber } from '../../host/sys/seccomp.ts';
import { expectedRefusals, reasonsToStay } from './unseen-calls.ts';

export interface RecordedCalls {
  made: { by: string; node: string; kernel: string; architecture: 'x64' };
  profiles: Record<SeccompProfile, CallsByName>;
}

export type CallsByName = Record<string, RecordedCall>;

export interface RecordedCall {
  /** Of the workload: those that made it, in their order. */
  parts: string[];
  /** Where the profile looks at arguments: each combination of those it looks at, as hex. */
  arguments?: string[][];
}

export interface Comparison {
  /** By the profile that the workload ran under, and still ran. No reason: nobody expects it. */
  refused: { call: string; verdict: Verdict; reason: string | undefined }[];
  /** Allowed with some arguments at least, and never seen. No reason: why is it allowed? */
  unseen: { call: string; reason: string | undefined }[];
}

export const profiles: Record<SeccompProfile, Profile> = {
  node: nodeProfile,
  strict: strictProfile,
};

/** The call's arguments that a profile looks at; undefined where it looks at none. */
export function argumentsLookedAt(call: string): Set<number> | undefined {
  const rules = nodeProfile.conditional.filter((rule) => rule.call === call);
  if (rules.length === 0) return undefined;
  return new Set(rules.flatMap(({ tests }) => tests.map(({ argument }) => argument)));
}

export function compareRecorded(name: SeccompProfile, calls: CallsByName): Comparison {
  const { allowed, conditional } = profiles[name];
  const refused = Object.entries(calls).flatMap(([call, recorded]) => {
    const number = seccompCallNumber(call, 'x64');
    if (number === undefined) throw new Error(`libseccomp knows no call "${call}"`);
    return (recorded.arguments ?? [[]]).flatMap((texts) => {
      const verdict = profileVerdict(name, { number, arguments: texts.map(BigInt) }, 'x64');
      if (verdict === 'allow') return [];
      const made = [call, ...texts].join(' ');
      return [{ call: made, verdict, reason: expectedRefusals[name][made] }];
    });
  });
  const all = new Set([...Object.keys(allowed), ...conditional.map(({ call }) => call)]);
  const unseen = [...all]
    .filter((call) => !(call in calls))
    .map((call) => ({ call, reason: reasonsToStay.get(call) }));
  return { refused, unseen };
}

/** What `npm run record-syscalls` and the test of it want: a reason for each difference. */
export function complaintsOf(name: SeccompProfile, calls: CallsByName): string[] {
  const { refused, unseen } = compareRecorded(name, calls);
  return [
    ...refused
      .filter(({ reason }) => reason === undefined)
      .map(({ call, verdict }) => `${name}: ${call} is made, and answered with ${verdict}`),
    ...unseen
      .filter(({ reason }) => reason === undefined)
      .map(({ call }) => `${name}: ${call} is allowed, and nobody makes it`),
  ];
}

const call = /^(\d+) +(\w+)\((.*)$/;
const filterLoaded = /^(\d+) +seccomp\(/;

/**
 * What `strace -f` wrote of a process that put itself under a filter and then ran the workload: the
 * calls since, by all its children and threads. Those whose arguments count are to be raw in it.
 */
export function readTrace(text: string, parts: readonly string[]): CallsByName {
  const lines = text.split('\n');
  const start = lines.findLastIndex((line) => filterLoaded.test(line));
  if (start < 0) throw new Error('The trace has no process that loads a filter');
  const [, root] = filterLoaded.exec(lines[start] ?? '') ?? [];
  let part = 'loading';
  const found = new Map<string, { parts: Set<string>; arguments: Set<string> }>();
  for (const line of lines.slice(start + 1)) {
    const [, thread, name = '', rest = ''] = call.exec(line) ?? [];
    if (thread === undefined) continue;
    if (thread === root && name === 'write')
      part = parts.find((one) => rest.startsWith(`1, "${one}\\n"`)) ?? part;
    const known = found.get(name) ?? { parts: new Set(), arguments: new Set() };
    found.set(name, known);
    known.parts.add(part);
    const lookedAt = argumentsLookedAt(name);
    if (lookedAt !== undefined) known.arguments.add(argumentsIn(rest, lookedAt));
  }
  const sorted = [...found].toSorted(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(
    sorted.map(([name, { parts: by, arguments: sets }]): [string, RecordedCall] => {
      if (sets.size === 0) return [name, { parts: [...by] }];
      return [
        name,
        { parts: [...by], arguments: [...sets].toSorted().map((one) => one.split(' ')) },
      ];
    }),
  );
}

/** Descriptors and addresses differ from run to run, and count as 0. */
function argumentsIn(text: string, lookedAt: Set<number>): string {
  const [list = ''] = text.split(/\)| <unfinished/);
  const values = list.split(', ').slice(0, Math.max(...lookedAt) + 1);
  return values.map((value, index) => (lookedAt.has(index) ? value : '0')).join(' ');
}
