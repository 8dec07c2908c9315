/** The node profile in force: ordinary work goes on, the rest is refused by the kernel. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { test } from 'node:test';
import { compileProfile } from '../../host/security/security.ts';
import { seccompCallNumber } from '../../host/sys/seccomp.ts';

const here = import.meta.dirname;
const child = join(here, 'seccomp-child.ts');
const { bpf, architecture } = compileProfile('node');
const errno = { EPERM: 1, ENOSYS: 38 } as const;

test('a forked Node does all ordinary work under the filter', () => {
  // As the zygote runs: one thread, so that every later thread inherits the filter.
  const output = runUnderFilter(['--single-threaded', child, join(here, 'seccomp-workload.ts')]);
  assert.match(output, /all parts work/);
});

test('under the strict profile it does all that this one promises', () => {
  const { bpf: strict } = compileProfile('strict');
  const output = runUnderFilter(['--single-threaded', child, join(here, 'seccomp-workload.ts')], {
    FILTER: strict.toString('base64'),
    PROFILE: 'strict',
  });
  assert.match(output, /all parts work/);
  assert.doesNotMatch(output, /sockets/);
});

test('a Node that is started under the filter does all ordinary work', () => {
  const output = runUnderFilter([
    child,
    'data:text/javascript,' + encodeURIComponent(startAnother),
  ]);
  assert.match(output, /all parts work/);
});

test('forbidden calls get the errno that the profile names', () => {
  const probe = (name: string, ...args: number[]) => {
    const number = seccompCallNumber(name, architecture);
    assert.ok(number !== undefined, name);
    return [number, args[0] ?? 0, args[1] ?? 0, args[2] ?? 0];
  };
  const CLONE_NEWNS = 0x20000;
  const SIGCHLD = 17;
  const denied = {
    ptrace: probe('ptrace', 16, 0),
    unshare: probe('unshare', CLONE_NEWNS),
    'clone with a namespace': probe('clone', CLONE_NEWNS | SIGCHLD),
    'an AF_ALG socket': probe('socket', 38, 5, 0),
    'a raw socket': probe('socket', 2, 3, 1),
    'a packet socket': probe('socket', 17, 3, 0),
    'a netfilter socket': probe('socket', 16, 3, 12),
    mount: probe('mount', 0, 0, 0),
    'ioctl TIOCSTI': probe('ioctl', 0, 0x5412),
    bpf: probe('bpf', 0, 0, 0),
    userfaultfd: probe('userfaultfd', 0),
    keyctl: probe('keyctl', 0, -3, 0),
    personality: probe('personality', 0x0040000),
    'prctl PR_SET_DUMPABLE': probe('prctl', 4, 1),
    seccomp: probe('seccomp', 1, 0, 0),
  };
  const absent = {
    clone3: probe('clone3', 0, 0),
    io_uring_setup: probe('io_uring_setup', 1, 0),
    'a call of the future': [600, 0, 0, 0],
  };
  const output = runUnderFilter([
    child,
    join(here, 'seccomp-probes.ts'),
    JSON.stringify({ ...denied, ...absent }),
  ]);
  const expected = {
    ...Object.fromEntries(Object.keys(denied).map((name) => [name, errno.EPERM])),
    ...Object.fromEntries(Object.keys(absent).map((name) => [name, errno.ENOSYS])),
  };
  assert.deepEqual(JSON.parse(output), expected);
});

test('the filter is not needed for these answers: without it they differ', () => {
  const number = seccompCallNumber('keyctl', architecture);
  const result = spawnSync(
    process.execPath,
    [join(here, 'seccomp-probes.ts'), '', JSON.stringify({ keyctl: [number, 0, -3, 0] })],
    { encoding: 'utf8' },
  );
  assert.notDeepEqual(JSON.parse(result.stdout), { keyctl: errno.EPERM });
});

const foreignCallsTest = () => {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-seccomp-'));
  try {
    const source = join(directory, 'foreign.c');
    writeFileSync(source, foreignCalls);
    execFileSync('gcc', ['-O1', '-o', join(directory, 'foreign'), source]);
    // A kernel without 32-bit calls has no such gate: nobody gets as far as to the filter.
    const unfiltered = spawnSync(join(directory, 'foreign'), ['int80']);
    for (const [kind, signal] of [
      ['native', null],
      ['int80', unfiltered.signal === 'SIGSEGV' ? 'SIGSEGV' : 'SIGSYS'],
      ['x32', 'SIGSYS'],
    ] as const) {
      const start = `const { signal, status } = (await import('node:child_process')).spawnSync(
        ${JSON.stringify(join(directory, 'foreign'))}, ['${kind}']);
        console.log(JSON.stringify({ signal, status }));`;
      const output = runUnderFilter([child, 'data:text/javascript,' + encodeURIComponent(start)]);
      const status = signal === null ? 0 : null;
      assert.deepEqual(JSON.parse(output), { signal, status }, kind);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
};
// Other processors have one way to make a call.
if (architecture === 'x64') test('int 0x80 and x32 kill the process', foreignCallsTest);

/** getpid(), made in the three ways that an x86-64 processor has. */
const foreignCalls = `
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int argc, char **argv) {
  if (!strcmp(argv[1], "native")) return syscall(SYS_getpid) < 0;
  if (!strcmp(argv[1], "x32")) return syscall(0x40000000 | SYS_getpid) < 0;
  long result = 20;
  __asm__ volatile("int $0x80" : "+a"(result) : : "memory");
  return result < 0;
}`;

const startAnother = `
  import { spawnSync } from 'node:child_process';
  const { stdout, stderr } = spawnSync(process.execPath, [
    ${JSON.stringify(join(here, 'seccomp-workload.ts'))}
  ]);
  process.stdout.write(stdout); process.stderr.write(stderr);`;

function runUnderFilter(
  args: string[],
  environment: Record<string, string> = { FILTER: bpf.toString('base64') },
): string {
  const result = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, ...environment },
  });
  assert.equal(result.status, 0, `${result.signal ?? ''}\n${result.stdout}\n${result.stderr}`);
  return result.stdout;
}
