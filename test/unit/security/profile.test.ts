/** The compiled program says what the data says; both are asked, for every call. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { argumentRules } from '../../../host/security/argument-rules.ts';
import { nodeProfile } from '../../../host/security/profile-node.ts';
import { strictProfile, strictRefusals } from '../../../host/security/profile-strict.ts';
import type { ArgumentRule } from '../../../host/security/profile.ts';
import {
  compileProfile,
  profileAllows,
  profileVerdict,
  stageProfiles,
  type Verdict,
} from '../../../host/security/security.ts';
import type { SeccompProfile } from '../../../host/protocol/invoke.ts';
import { setupRules } from '../../../host/security/setup-rules.ts';
import { comparisonLayout, seccompCallNumber } from '../../../host/sys/seccomp.ts';
import { runFilter } from './bpf-interpreter.ts';

const architectures = { x64: 0xc000_003e, arm64: 0xc000_00b7 } as const;
const killProcess = 0x8000_0000;
const askListener = 0x7fc0_0000;
const returns: Record<Verdict, number> = {
  allow: 0x7fff_0000,
  EPERM: 0x0005_0001,
  ENOSYS: 0x0005_0026,
};

for (const [name, audit] of Object.entries(architectures)) {
  const architecture = name === 'arm64' ? 'arm64' : 'x64';
  describe(`the node profile on ${architecture}`, () => {
    const { bpf } = compileProfile('node', architecture);
    const agree = (number: number, args: readonly bigint[]) => {
      const verdict = profileVerdict('node', { number, arguments: args }, architecture);
      const result = runFilter(bpf, { number, architecture: audit, arguments: args });
      assert.equal(result, returns[verdict], `call ${number} (${args.join(', ')})`);
    };

    test('every number has the verdict of the data', () => {
      for (let number = 0; number <= 600; number += 1) agree(number, []);
    });

    test('so have calls with arguments on and beside the rules', () => {
      const word = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
      const near = fc
        .constantFrom(...argumentRules.flatMap((rule) => rule.tests.map((one) => one.equals)))
        .chain((value) => fc.constantFrom(value, value + 1n, value | (1n << 32n), value << 1n));
      const argument = fc.oneof(word, near, fc.constant(0n));
      const number = fc.constantFrom(...compileProfile('node', architecture).conditional.values());
      const args = fc.array(argument, { minLength: 6, maxLength: 6 });
      fc.assert(fc.property(number, args, agree), { numRuns: 3000 });
    });

    test('each rule allows its own call', () => {
      for (const { call, tests } of argumentRules) {
        const number = seccompCallNumber(call, architecture);
        if (number === undefined) continue;
        const args = argumentsOf({ tests });
        agree(number, args);
        assert.equal(profileVerdict('node', { number, arguments: args }, architecture), 'allow');
      }
    });

    describe('in two stages', () => {
      const { base, seals } = stageProfiles(architecture);
      const run = (program: Buffer, number: number, args: readonly bigint[]) =>
        runFilter(program, { number, architecture: audit, arguments: args });
      // Of the two answers the kernel takes the one with the lower number, as a signed one.
      const stricter = (profile: SeccompProfile, number: number, args: readonly bigint[]) => {
        const strictest = Math.min(run(base, number, args), run(seals[profile], number, args));
        // Whoever is asked says EPERM.
        return strictest === askListener ? returns.EPERM : strictest;
      };

      for (const profile of ['node', 'strict'] as const)
        test(`every call has the verdict that the ${profile} profile has for it`, () => {
          const rules = [...setupRules, ...argumentRules, ...strictProfile.conditional];
          for (let number = 0; number <= 600; number += 1)
            for (const args of [[], ...rules.map(argumentsOf)]) {
              const call = { number, arguments: args };
              const verdict = profileVerdict(profile, call, architecture);
              const result = stricter(profile, number, args);
              assert.equal(result, returns[verdict], `call ${number} (${args.join(', ')})`);
            }
        });

      test('what the setup needs is allowed by the first, by its mark, until the second', () => {
        for (const rule of setupRules) {
          const number = seccompCallNumber(rule.call, architecture);
          assert.ok(number !== undefined, rule.call);
          const args = argumentsOf(rule);
          assert.equal(run(base, number, args), returns.allow, rule.call);
          assert.equal(run(seals.node, number, args), returns.EPERM, rule.call);
          assert.equal(run(seals.strict, number, args), returns.EPERM, rule.call);
          const unmarked = args.with(5, 0n);
          assert.notEqual(run(base, number, unmarked), returns.allow, rule.call);
        }
      });

      test('what the node profile refuses is asked about, so that it can be told', () => {
        for (const call of Object.keys(nodeProfile.denied)) {
          const number = seccompCallNumber(call, architecture);
          if (number === undefined) continue;
          assert.equal(run(base, number, []), askListener, call);
          assert.equal(run(seals.node, number, []), returns.allow, call);
        }
      });
    });

    test('a foreign architecture kills, whatever the number', () => {
      for (const foreign of [0x4000_0003, 0x4000_0028, 0xc000_0016])
        for (const number of [0, 1, 102, 9999])
          assert.equal(
            runFilter(bpf, { number, architecture: foreign, arguments: [] }),
            killProcess,
          );
    });
  });
}

function argumentsOf({ tests }: Pick<ArgumentRule, 'tests'>): bigint[] {
  const args = Array.from({ length: 6 }, () => 0n);
  for (const one of tests) args[one.argument] = one.equals;
  return args;
}

test('x32 calls kill', () => {
  const { bpf } = compileProfile('node', 'x64');
  for (const number of [0x4000_0000, 0x4000_0001, 0x4000_0208, 0x4fff_ffff])
    assert.equal(
      runFilter(bpf, { number, architecture: architectures.x64, arguments: [] }),
      killProcess,
    );
});

test('each call that the C library knows has been decided about, once', () => {
  const { allowed, conditional, denied, absent } = nodeProfile;
  const rules = new Set(conditional.map((rule) => rule.call));
  const named = [allowed, denied, absent].flatMap((list) => Object.keys(list)).concat(...rules);
  assert.equal(new Set(named).size, named.length, 'a call is in two lists');
  const known = callsOfHeaders();
  assert.ok(known.length > 300);
  assert.deepEqual(
    known.filter((call) => !named.includes(call)),
    [],
  );
});

test('no name is misspelt, and every entry has its reason', () => {
  const { allowed, denied, absent } = nodeProfile;
  for (const [call, reason] of Object.entries({ ...allowed, ...denied, ...absent })) {
    assert.ok(reason.length > 5, call);
    const number = seccompCallNumber(call, 'x64') ?? seccompCallNumber(call, 'arm64');
    assert.notEqual(number, undefined, call);
  }
});

test('the strict profile has no sockets and no processes, and threads', () => {
  const call = (name: string, ...args: bigint[]) => {
    const number = seccompCallNumber(name, 'x64');
    assert.ok(number !== undefined);
    return profileVerdict('strict', { number, arguments: args }, 'x64');
  };
  for (const name of ['socket', 'socketpair', 'connect', 'fork', 'vfork', 'execve', 'execveat'])
    assert.equal(call(name, 1n, 1n), 'EPERM', name);
  const thread = 0x3d_0f00n;
  assert.equal(call('clone', thread), 'allow');
  assert.equal(call('clone', 17n), 'EPERM', 'a process');
  assert.equal(call('clone', thread | 0x2000_0000n), 'EPERM', 'a thread in a pid namespace');
  for (const name of ['read', 'openat', 'mmap', 'futex']) assert.equal(call(name), 'allow', name);
});

test('each call that the strict profile refuses beyond the node profile is one of its', () => {
  for (const { call } of strictRefusals) {
    const inNode =
      call in nodeProfile.allowed || nodeProfile.conditional.some((r) => r.call === call);
    assert.ok(inNode, call);
  }
});

test('what makes containers unsafe is refused', () => {
  const call = (name: string, ...args: bigint[]) => {
    const number = seccompCallNumber(name, 'x64');
    assert.ok(number !== undefined);
    return profileVerdict('node', { number, arguments: args }, 'x64');
  };
  for (const name of ['ptrace', 'bpf', 'mount', 'setns', 'unshare', 'keyctl', 'userfaultfd'])
    assert.equal(call(name), 'EPERM', name);
  for (const name of ['clone3', 'io_uring_setup']) assert.equal(call(name), 'ENOSYS', name);
  const upper = 1n << 32n;
  assert.equal(call('ioctl', 0n, 0x5412n), 'EPERM', 'TIOCSTI');
  assert.equal(call('ioctl', 0n, 0x5412n | upper), 'EPERM', 'TIOCSTI with an upper half');
  assert.equal(call('socket', 38n, 5n, 0n), 'EPERM', 'AF_ALG');
  assert.equal(call('socket', 17n, 3n, 0n), 'EPERM', 'AF_PACKET');
  assert.equal(call('socket', 2n, 3n, 255n), 'EPERM', 'a raw socket');
  assert.equal(call('socket', 2n, 3n | 0o2000000n, 255n), 'EPERM', 'a raw socket, close-on-exec');
  assert.equal(call('socket', 16n, 3n, 6n), 'EPERM', 'NETLINK_XFRM');
  assert.equal(call('socket', 2n, 1n, 132n), 'EPERM', 'SCTP');
  assert.equal(call('socket', 16n, 3n, 0n), 'allow', 'NETLINK_ROUTE');
  for (const shift of [17n, 25n, 26n, 27n, 28n, 29n, 30n])
    assert.equal(call('clone', 17n | (1n << shift)), 'EPERM', `clone bit ${shift}`);
  assert.equal(call('mknod', 0n, 0o020666n), 'EPERM', 'a character device');
  assert.equal(profileAllows('node', { number: 1_000_000 }), false);
});

test('struct scmp_arg_cmp is as the C compiler lays it out', () => {
  const source = `#include <seccomp.h>
    #include <stddef.h>
    #define O(f) offsetof(struct scmp_arg_cmp, f)
    int layout[] = { sizeof(struct scmp_arg_cmp), O(arg), O(op), O(datum_a), O(datum_b) };`;
  const assembly = execFileSync('gcc', ['-S', '-x', 'c', '-', '-o', '-'], { input: source });
  const numbers = [...assembly.toString().matchAll(/\.(?:long|zero)\s+(\d+)/g)];
  // A leading zero of an array may be written as ".zero 4".
  const values = numbers.map(([text, value]) => (text.startsWith('.zero') ? 0 : Number(value)));
  const { size, argument, operator, a, b } = comparisonLayout;
  assert.deepEqual(values, [size, argument, operator, a, b]);
});

function callsOfHeaders(): string[] {
  const text = execFileSync('gcc', ['-E', '-dM', '-x', 'c', '-'], {
    input: '#include <sys/syscall.h>',
  });
  return [...text.toString().matchAll(/^#define __NR_(\w+) \d+$/gm)].map((match) => match[1] ?? '');
}
