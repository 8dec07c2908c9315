import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { isErrno, SyscallError } from '../../../host/sys/errors.ts';
import {
  allocate,
  errnoName,
  errnoOf,
  hasLibrary,
  libraryFunction,
  numberedSyscall,
  syscall,
  syscallError,
  trySyscall,
} from '../../../host/sys/libc.ts';
import type { Argument } from '../../../host/sys/libc.ts';
import { callNumber } from '../../../host/sys/numbers.ts';

const chdir = syscall<[string]>('int chdir(const char *path)', (path) => `"${path}"`);
const tryClose = trySyscall<[number]>('int close(int fd)');
const pidfdOpen = numberedSyscall<[number, number]>(
  { name: 'pidfd_open', number: callNumber.pidfd_open, parameters: 'int pid, unsigned int flags' },
  (pid) => `of process ${pid}`,
);

describe('a declared system call', () => {
  test('returns the result', () => {
    const getpid = syscall<[]>('int getpid()');
    assert.equal(getpid(), process.pid);
  });

  test("throws the call's errno, name and detail, shaped like Node's own errors", () => {
    assert.throws(
      () => chdir('/missing'),
      (error) => {
        assert.ok(error instanceof SyscallError);
        assert.equal(error.message, 'ENOENT: chdir "/missing"');
        assert.equal(error.code, 'ENOENT');
        assert.equal(error.errno, -2);
        assert.equal(error.syscall, 'chdir');
        assert.ok(isErrno(error, 'EPERM', 'ENOENT'));
        assert.ok(!isErrno(error, 'EPERM'));
        return true;
      },
    );
  });

  test('tells failures of one call from those of the next', () => {
    const file = process.execPath;
    assert.throws(() => chdir('/missing'), { code: 'ENOENT' });
    assert.throws(() => chdir(file), { code: 'ENOTDIR' });
    assert.throws(() => fs.readdirSync('/missing'), { code: 'ENOENT' });
    assert.throws(() => chdir(file), { code: 'ENOTDIR' });
  });

  test('by number names the call, not "syscall"', () => {
    assert.throws(() => pidfdOpen(-1, 0), {
      message: 'EINVAL: pidfd_open of process -1',
      syscall: 'pidfd_open',
    });
    const fd = pidfdOpen(process.pid, 0);
    assert.ok(fd > 2);
    fs.closeSync(fd);
  });

  test('that may fail normally returns a negative errno', () => {
    const fd = fs.openSync('/dev/null', 'r');
    assert.equal(tryClose(fd), 0);
    assert.equal(tryClose(fd), -errnoOf('EBADF'));
  });

  test('refuses too few and too many arguments: C would take what lies in the registers', () => {
    const loose = (call: (...args: never[]) => unknown) => call as (...args: Argument[]) => unknown;
    assert.throws(() => loose(chdir)(), new TypeError('chdir takes 1 arguments: got 0'));
    assert.throws(() => loose(chdir)('/', 0), new TypeError('chdir takes 1 arguments: got 2'));
    assert.throws(() => loose(tryClose)(), new TypeError('close takes 1 arguments: got 0'));
    assert.throws(() => loose(pidfdOpen)(1), new TypeError('pidfd_open takes 2 arguments: got 1'));
  });

  test('refuses a string with a NUL: C would see only its beginning', () => {
    const before = process.cwd();
    assert.throws(() => chdir('/\0/missing'), /^TypeError: chdir: .* holds a NUL character/);
    assert.equal(process.cwd(), before);
  });

  test('writes into a buffer that is declared as output', () => {
    const gethostname = syscall<[Uint8Array, number]>(
      'int gethostname(_Out_ uint8_t *name, size_t size)',
    );
    const name = Buffer.alloc(256);
    gethostname(name, name.length);
    const kernels = fs.readFileSync('/proc/sys/kernel/hostname', 'utf8').trim();
    assert.equal(name.toString('utf8', 0, name.indexOf(0)), kernels);
  });
});

describe('libraries', () => {
  test('a function of the running executable has a convention of its own for failures', () => {
    const strerror = libraryFunction<[number], string>(null, 'const char *uv_err_name(int error)');
    assert.equal(strerror(-2), 'ENOENT');
  });

  test('whether a library is there can be asked', () => {
    assert.equal(hasLibrary('libc.so.6'), true);
    assert.equal(hasLibrary('libhatch-missing.so.1'), false);
  });
});

describe('errno names', () => {
  test('go both ways, and unknown ones are told', () => {
    assert.equal(errnoName(errnoOf('EXDEV')), 'EXDEV');
    assert.equal(errnoName(4095), 'E4095');
    assert.throws(() => errnoOf('ENONSENSE'), /There is no errno ENONSENSE/);
    assert.equal(syscallError('recvmsg', -errnoOf('EAGAIN')).message, 'EAGAIN: recvmsg');
  });
});

test('native memory is zeroed, and C sees what JavaScript writes there', () => {
  const memory = allocate(64);
  assert.deepEqual(memory.bytes, Buffer.alloc(64));
  memory.bytes.write('hatch\0', 'latin1');
  const strlen = libraryFunction<[bigint]>('libc.so.6', 'size_t strlen(const void *string)');
  assert.equal(Number(strlen(memory.address)), 5);
});
