/**
 * What a function may ask of the kernel. A profile is data (`profile-node.ts`); this compiles it to
 * the BPF program that a container applies to itself last, and answers, from the same data, what
 * the program will say to a call.
 *
 * Three answers, chosen for what programs make of them:
 *  - `allow`.
 *  - `EPERM`: the kernel has the call, the function may not use it. The default: a list of what is
 *    allowed forgets nothing.
 *  - `ENOSYS`: calls newer than the profile, and those that have an older substitute. Libraries
 *    take ENOSYS as "old kernel" and fall back, where EPERM would make them fail.
 * A call of a foreign architecture (int 0x80, x32) kills the process: nothing honest makes one.
 */
import process from 'node:process';
import { HatchError } from '../base/errors.ts';
import type { SeccompProfile } from '../protocol/invoke.ts';
import { errnoOf } from '../sys/libc.ts';
import {
  type Architecture,
  buildSeccompFilter,
  type FilterAction,
  type FilterRule,
  hasSeccompLibrary,
  seccompCallNumber,
} from '../sys/seccomp.ts';
import { filterInstructionsMax } from '../sys/seccomp-filter.ts';
import { askInsteadOf, unknownCallsPrologue } from './bpf.ts';
import { nodeProfile } from './profile-node.ts';
import { strictProfile, strictRefusals } from './profile-strict.ts';
import type { ArgumentRule, Profile } from './profile.ts';
import { setupRules } from './setup-rules.ts';

export type Verdict = 'allow' | 'EPERM' | 'ENOSYS';

export interface CompiledProfile {
  /** For `loadSeccompFilter`: 8 bytes an instruction. */
  readonly bpf: Buffer;
  readonly architecture: Architecture;
  /** Numbers by name of the calls that are allowed with any arguments. */
  readonly allowed: ReadonlyMap<string, number>;
  /** Of those that are allowed with some arguments only. */
  readonly conditional: ReadonlyMap<string, number>;
  /** Of those that are refused with EPERM on purpose. */
  readonly denied: ReadonlyMap<string, number>;
  /** Of those that are answered with ENOSYS. */
  readonly absent: ReadonlyMap<string, number>;
  /** Above it all calls are answered with ENOSYS. */
  readonly highestNumber: number;
}

const profiles: Record<SeccompProfile, Profile> = { node: nodeProfile, strict: strictProfile };
const compiled = new Map<string, CompiledProfile>();

/** Compiled once and kept. Throws `host.unsupported` without libseccomp. */
export function compileProfile(
  name: SeccompProfile,
  architecture: Architecture = ownArchitecture(),
): CompiledProfile {
  const key = `${name} ${architecture}`;
  const known = compiled.get(key);
  if (known !== undefined) return known;
  if (!hasSeccompLibrary())
    throw new HatchError(
      'host.unsupported',
      'Cannot build seccomp filters: install libseccomp2 (libseccomp.so.2)',
    );
  const profile = compile(profiles[name], architecture);
  compiled.set(key, profile);
  return profile;
}

/** Profiles in programs that are in force together: the kernel does what the strictest says. */
export interface StagedProfiles {
  /** Loaded once, in the zygote, and inherited: the node profile, and what a start needs. */
  readonly base: Buffer;
  /**
   * Loaded last in each process, short: refuses what only the setup needed, and what the profile
   * does not have of the node profile.
   */
  readonly seals: Readonly<Record<SeccompProfile, Buffer>>;
}

/**
 * The kernel compiles a program for each process that loads it, 0.2 ms for a whole profile, and for
 * none that inherits it. What the base refuses waits for who listens to it (`refused-calls.ts`).
 * Throws as `compileProfile` does.
 */
export function stageProfiles(architecture: Architecture = ownArchitecture()): StagedProfiles {
  const { highestNumber } = compileProfile('node', architecture);
  const withAction = (rules: readonly ArgumentRule[], action: FilterAction): FilterRule[] =>
    rules.map(({ call, tests }) => ({ call, tests, action }));
  const program = buildSeccompFilter({
    architecture,
    defaultAction: { errno: 'EPERM' },
    rules: [...rulesOf(nodeProfile), ...withAction(setupRules, 'allow')],
  });
  const base = withPrologue({ program, architecture, highestNumber });
  const seal = (refusals: readonly ArgumentRule[]): Buffer =>
    buildSeccompFilter({
      architecture,
      defaultAction: 'allow',
      rules: withAction([...setupRules, ...refusals], { errno: 'EPERM' }),
    });
  return {
    base: askInsteadOf(base, errnoOf('EPERM')),
    seals: { node: seal([]), strict: seal(strictRefusals) },
  };
}

/** The names of calls by their numbers: of all that a list of the profile names. */
export function callNames(): ReadonlyMap<number, string> {
  const { allowed, conditional, denied, absent } = compileProfile('node');
  const names = [allowed, conditional, denied, absent].flatMap((list) => [...list]);
  return new Map(names.map(([name, number]) => [number, name]));
}

/** What the filter says to a call of the native kind; arguments left out count as 0. */
export function profileVerdict(
  name: SeccompProfile,
  call: { number: number; arguments?: readonly bigint[] },
  architecture: Architecture = ownArchitecture(),
): Verdict {
  const { allowed, conditional, absent, highestNumber } = compileProfile(name, architecture);
  if (call.number > highestNumber) return 'ENOSYS';
  if (hasNumber(allowed, call.number)) return 'allow';
  if (hasNumber(absent, call.number)) return 'ENOSYS';
  const holds = profiles[name].conditional.some(
    (rule) =>
      conditional.get(rule.call) === call.number &&
      rule.tests.every((test) => {
        return ((call.arguments?.[test.argument] ?? 0n) & test.mask) === test.equals;
      }),
  );
  return holds ? 'allow' : 'EPERM';
}

export function profileAllows(
  name: SeccompProfile,
  call: { number: number; arguments?: readonly bigint[] },
): boolean {
  return profileVerdict(name, call) === 'allow';
}

function compile(profile: Profile, architecture: Architecture): CompiledProfile {
  const allowed = numbersOf(Object.keys(profile.allowed), architecture);
  const conditional = numbersOf(
    profile.conditional.map((rule) => rule.call),
    architecture,
  );
  const denied = numbersOf(Object.keys(profile.denied), architecture);
  const absent = numbersOf(Object.keys(profile.absent), architecture);
  const all = [allowed, conditional, denied, absent].flatMap((numbers) => [...numbers.values()]);
  const highestNumber = Math.max(...all);
  const program = buildSeccompFilter({
    architecture,
    defaultAction: { errno: 'EPERM' },
    rules: rulesOf(profile),
  });
  const bpf = withPrologue({ program, architecture, highestNumber });
  return { bpf, architecture, allowed, conditional, denied, absent, highestNumber };
}

function withPrologue(options: {
  program: Buffer;
  architecture: Architecture;
  highestNumber: number;
}): Buffer {
  const { program, architecture, highestNumber } = options;
  const prologue = unknownCallsPrologue({ architecture, highestNumber, errno: errnoOf('ENOSYS') });
  const bpf = Buffer.concat([prologue, program]);
  if (bpf.length / 8 > filterInstructionsMax)
    throw new HatchError('internal.bug', 'Cannot use a profile: its filter is too long');
  return bpf;
}

/** What is denied needs no rule: it is the default. */
function rulesOf(profile: Profile): FilterRule[] {
  const allow = Object.keys(profile.allowed).map((call): FilterRule => {
    return { call, action: 'allow', tests: [] };
  });
  const some = profile.conditional.map(({ call, tests }): FilterRule => {
    return { call, action: 'allow', tests };
  });
  const absent = Object.keys(profile.absent).map((call): FilterRule => {
    return { call, action: { errno: 'ENOSYS' }, tests: [] };
  });
  return [...allow, ...some, ...absent];
}

function numbersOf(names: readonly string[], architecture: Architecture): Map<string, number> {
  const numbers = new Map<string, number>();
  for (const name of names) {
    const number = seccompCallNumber(name, architecture);
    if (number !== undefined) numbers.set(name, number);
  }
  return numbers;
}

function hasNumber(numbers: ReadonlyMap<string, number>, wanted: number): boolean {
  for (const number of numbers.values()) if (number === wanted) return true;
  return false;
}

function ownArchitecture(): Architecture {
  return process.arch === 'arm64' ? 'arm64' : 'x64';
}
