import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { syscall } from '../../../host/sys/libc.ts';
import { openServiceManager } from '../../../host/sys/service-manager.ts';
import { receiveMessage, unixAddress } from '../../../host/sys/socket.ts';

const directory = mkdtempSync(join(tmpdir(), 'hatch-notify-'));
after(() => rmSync(directory, { recursive: true }));

for (const address of [join(directory, 'socket'), `@hatch-test-${process.pid}`])
  test(`states reach the manager at ${address.startsWith('@') ? 'a name' : 'a path'}`, () => {
    using manager = listen(address);
    const environment: NodeJS.ProcessEnv = { NOTIFY_SOCKET: address, PATH: '/bin' };
    const tell = openServiceManager(environment);
    assert.deepEqual(environment, { PATH: '/bin' });
    tell('READY=1', 'STATUS=Serves');
    tell('STOPPING=1');
    assert.equal(manager.next(), 'READY=1\nSTATUS=Serves');
    assert.equal(manager.next(), 'STOPPING=1');
  });

test('without a manager nothing is told', () => {
  openServiceManager({})('READY=1');
  openServiceManager({ NOTIFY_SOCKET: '' })('READY=1');
});

test('a manager that is gone is told by name', () => {
  const tell = openServiceManager({ NOTIFY_SOCKET: join(directory, 'gone') });
  assert.throws(() => tell('READY=1'), { code: 'ENOENT', syscall: 'connect' });
  const long = openServiceManager({ NOTIFY_SOCKET: `/${'x'.repeat(200)}` });
  assert.throws(() => long('READY=1'), /at most 108 bytes/);
});

function listen(address: string): { next(): string | undefined; [Symbol.dispose](): void } {
  const socket = syscall<[number, number, number]>(
    'int socket(int domain, int type, int protocol)',
  );
  const bind = syscall<[number, Uint8Array, number]>(
    'int bind(int fd, const uint8_t *address, uint32_t length)',
  );
  // AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC of <sys/socket.h>
  const fd = socket(1, 2 | 0o2000000, 0);
  const bytes = unixAddress(address);
  bind(fd, bytes, bytes.length);
  return {
    next: () => receiveMessage(fd, { nonBlocking: true })?.bytes.toString(),
    [Symbol.dispose]: () => closeSync(fd),
  };
}
