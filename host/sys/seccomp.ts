/**
 * libseccomp: from rules to a BPF program. Only the host has it; a container applies the finished
 * program by `seccomp-filter.ts`.
 */
import { closeSync, fstatSync, readSync } from 'node:fs';
import { SyscallError } from './errors.ts';
import { errnoName, errnoOf, hasLibrary, libraryFunction, syscall } from './libc.ts';

export type Architecture = 'x64' | 'arm64';

/** What the kernel does with a call: let it run, or answer with an errno by name. */
export type FilterAction = 'allow' | { errno: string };

export interface FilterRule {
  /** The call's name, such as `openat`. */
  call: string;
  action: FilterAction;
  /** All must hold; none means any arguments. Several rules of a call are alternatives. */
  tests: readonly { argument: number; mask: bigint; equals: bigint }[];
}

// <seccomp.h>
const library = 'libseccomp.so.2';
const SCMP_ACT_ALLOW = 0x7fff_0000;
const SCMP_ACT_KILL_PROCESS = 0x8000_0000;
const SCMP_ACT_ERRNO = 0x0005_0000;
const SCMP_FLTATR_ACT_BADARCH = 2;
const SCMP_FLTATR_CTL_OPTIMIZE = 8;
const SCMP_CMP_MASKED_EQ = 7;
const architectureTokens = { x64: 0xc000_003e, arm64: 0xc000_00b7 } as const;
/** More comparisons than a call has arguments make no sense. */
const testsMax = 6;

/** struct scmp_arg_cmp { unsigned arg; int op; uint64_t datum_a, datum_b; } */
export const comparisonLayout = { size: 24, argument: 0, operator: 4, a: 8, b: 16 } as const;

type Context = bigint;

interface Functions {
  init(defaultAction: number): Context;
  release(context: Context): number;
  addArchitecture(context: Context, token: number): number;
  removeArchitecture(context: Context, token: number): number;
  setAttribute(context: Context, attribute: number, value: number): number;
  resolve(token: number, name: string): number;
  addRule(
    context: Context,
    action: number,
    call: number,
    count: number,
    comparisons: Uint8Array,
  ): number;
  exportBpf(context: Context, fd: number): number;
}

const memfdCreate = syscall<[string, number]>(
  'int memfd_create(const char *name, unsigned int flags)',
);
const MFD_CLOEXEC = 1;

let loaded: Functions | undefined;

/** Whether libseccomp is installed. */
export function hasSeccompLibrary(): boolean {
  return hasLibrary(library);
}

/** What libseccomp and the kernel can do together, as libseccomp counts; undefined without it. */
export function seccompApiLevel(): number | undefined {
  if (!hasSeccompLibrary()) return undefined;
  return libraryFunction<[]>(library, 'unsigned int seccomp_api_get()')();
}

/**
 * Compiles rules to a BPF program (8 bytes an instruction). A call without a matching rule gets
 * `defaultAction`; one of a foreign architecture (x32 and int 0x80 too) kills the process. Calls
 * that the architecture does not have are left out.
 */
export function buildSeccompFilter(options: {
  architecture: Architecture;
  defaultAction: FilterAction;
  rules: readonly FilterRule[];
}): Buffer {
  const api = functions();
  const token = architectureTokens[options.architecture];
  const context = api.init(actionValue(options.defaultAction));
  try {
    selectArchitecture(context, token);
    check(
      'seccomp_attr_set',
      api.setAttribute(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
    );
    // A binary tree of call numbers instead of a list of hundreds of comparisons.
    check('seccomp_attr_set', api.setAttribute(context, SCMP_FLTATR_CTL_OPTIMIZE, 2));
    for (const rule of options.rules) {
      if (seccompCallNumber(rule.call, options.architecture) !== undefined) addRule(context, rule);
    }
    return exportProgram(context);
  } finally {
    api.release(context);
  }
}

/** The call's number, or undefined where the architecture does not have it. */
export function seccompCallNumber(name: string, architecture: Architecture): number | undefined {
  const number = functions().resolve(architectureTokens[architecture], name);
  // Negative numbers are libseccomp's own, for calls of other architectures.
  return number < 0 ? undefined : number;
}

function selectArchitecture(context: Context, token: number): void {
  const api = functions();
  const nativeToken = architectureTokens[process.arch === 'arm64' ? 'arm64' : 'x64'];
  if (token === nativeToken) return;
  check('seccomp_arch_add', api.addArchitecture(context, token));
  check('seccomp_arch_remove', api.removeArchitecture(context, nativeToken));
}

function addRule(context: Context, rule: FilterRule): void {
  const api = functions();
  if (rule.tests.length > testsMax)
    throw new RangeError(`A rule for ${rule.call} has more than ${testsMax} tests`);
  // Rules take the number of the machine we run on, whatever the filter is for.
  const number = api.resolve(
    architectureTokens[process.arch === 'arm64' ? 'arm64' : 'x64'],
    rule.call,
  );
  const comparisons = Buffer.alloc(comparisonLayout.size * Math.max(1, rule.tests.length));
  for (const [index, test] of rule.tests.entries()) {
    const offset = index * comparisonLayout.size;
    comparisons.writeUInt32LE(test.argument, offset + comparisonLayout.argument);
    comparisons.writeInt32LE(SCMP_CMP_MASKED_EQ, offset + comparisonLayout.operator);
    comparisons.writeBigUInt64LE(test.mask, offset + comparisonLayout.a);
    comparisons.writeBigUInt64LE(test.equals, offset + comparisonLayout.b);
  }
  const action = actionValue(rule.action);
  const result = api.addRule(context, action, number, rule.tests.length, comparisons);
  check('seccomp_rule_add_array', result, rule.call);
}

function exportProgram(context: Context): Buffer {
  const fd = memfdCreate('hatch-seccomp', MFD_CLOEXEC);
  try {
    check('seccomp_export_bpf', functions().exportBpf(context, fd));
    const program = Buffer.alloc(fstatSync(fd).size);
    readSync(fd, program, 0, program.length, 0);
    return program;
  } finally {
    closeSync(fd);
  }
}

function actionValue(action: FilterAction): number {
  return action === 'allow' ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO + errnoOf(action.errno);
}

/** libseccomp returns negative errnos. */
function check(name: string, result: number, detail = ''): void {
  if (result < 0) throw new SyscallError(name, -result, errnoName(-result), detail);
}

/** Bound at first use: a process that only reads this module needs no libseccomp. */
function functions(): Functions {
  loaded ??= {
    init: libraryFunction<[number], bigint>(library, 'void *seccomp_init(uint32_t action)'),
    release: libraryFunction(library, 'void seccomp_release(void *context)'),
    addArchitecture: libraryFunction(
      library,
      'int seccomp_arch_add(void *context, uint32_t token)',
    ),
    removeArchitecture: libraryFunction(
      library,
      'int seccomp_arch_remove(void *context, uint32_t token)',
    ),
    setAttribute: libraryFunction(
      library,
      'int seccomp_attr_set(void *context, int attribute, uint32_t value)',
    ),
    resolve: libraryFunction(
      library,
      'int seccomp_syscall_resolve_name_arch(uint32_t token, const char *name)',
    ),
    addRule: libraryFunction(
      library,
      'int seccomp_rule_add_array(void *context, uint32_t action, int call,' +
        ' unsigned int count, const void *comparisons)',
    ),
    exportBpf: libraryFunction(library, 'int seccomp_export_bpf(void *context, int fd)'),
  };
  return loaded;
}
