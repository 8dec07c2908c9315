import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, readFileSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { isErrno } from '../../../host/sys/errors.ts';
import { syscall } from '../../../host/sys/libc.ts';
import { makeUserNamespace } from '../../../host/sys/user-namespace.ts';

/** <linux/nsfs.h> */
const NS_GET_OWNER_UID = 0xb704;
const ioctl = syscall<[number, number, Uint8Array]>(
  'int ioctl(int fd, unsigned long request, _Out_ uint8_t *argument)',
);

const range = { firstHostId: 1_000_000_000, count: 65_536 };

test('a user namespace maps its ids, and lives by its descriptor', () => {
  const fd = makeUserNamespace(range);
  const maps = execFileSync('nsenter', ['-U/proc/self/fd/3', 'cat', '/proc/self/uid_map'], {
    stdio: ['ignore', 'pipe', 'inherit', fd],
    encoding: 'utf8',
  });
  assert.deepEqual(maps.trim().split(/\s+/).map(Number), [0, 1_000_000_000, 65_536]);
  assert.notEqual(readlinkSync(`/proc/self/fd/${fd}`), readlinkSync('/proc/self/ns/user'));
  closeSync(fd);
});

test('it belongs to the first of its ids, and we stay who we are', () => {
  const before = readFileSync('/proc/thread-self/status', 'utf8');
  const fd = makeUserNamespace(range);
  const owner = Buffer.alloc(4);
  ioctl(fd, NS_GET_OWNER_UID, owner);
  assert.equal(owner.readUInt32LE(), range.firstHostId);
  const after = readFileSync('/proc/thread-self/status', 'utf8');
  for (const field of ['Uid', 'Gid', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
    assert.equal(lineOf(after, field), lineOf(before, field), field);
  closeSync(fd);
});

test('each is another one, and its process is gone', () => {
  const fds = Array.from({ length: 10 }, () => makeUserNamespace(range));
  assert.equal(new Set(fds.map((fd) => readlinkSync(`/proc/self/fd/${fd}`))).size, 10);
  assert.equal(readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8'), '');
  for (const fd of fds) closeSync(fd);
});

test('ids that cannot be mapped are an error, and its process is gone', () => {
  const isInvalid = (error: unknown): boolean => isErrno(error, 'EINVAL');
  assert.throws(() => makeUserNamespace({ firstHostId: 0, count: 0 }), isInvalid);
  assert.equal(readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8'), '');
});

function lineOf(status: string, field: string): string | undefined {
  return new RegExp(`^${field}:.*$`, 'm').exec(status)?.[0];
}
