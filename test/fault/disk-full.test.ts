/** The state directory's disk is full: calls go on, what cannot be kept is refused by name. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '@nats-io/transport-node';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';
import { digestOf } from '../../host/image/digest.ts';
import { errnoOf } from '../../host/sys/libc.ts';
import { startProbe } from '../support/containers.ts';
import { DiskImage } from '../support/disk-image.ts';
import { startHost } from '../support/host.ts';

test('a full disk refuses deploys and writes by name; calls go on, and room mends it', async () => {
  using disk = new DiskImage('btrfs', { sizeMiB: 1536 });
  const stateDirectory = mkdtempSync(join(disk.mountPoint, 'hatch-test-'));
  const host = await startHost({ config: { stateDirectory } });
  try {
    await host.deploy('functions/hello');
    const probe = await startProbe(host, 'writer');
    const filler = fill(disk.mountPoint);
    await assert.rejects(host.deploy('functions/markdown'), {
      code: 'host.nats_unavailable',
      message: /no space left on device; free some of the disk of the NATS server/,
    });
    const written = await probe.evaluate(() => {
      const fs = process.getBuiltinModule('node:fs');
      try {
        for (let piece = 0; piece < 100; piece++)
          fs.appendFileSync('/function/written', Buffer.alloc(2 ** 20, 1));
        return 0;
      } catch (error) {
        return (error as NodeJS.ErrnoException).errno;
      }
    });
    assert.equal(written, -errnoOf('ENOSPC'));
    // At once, so that some have to start.
    const replies = await Promise.all([1, 2, 3, 4].map(() => host.call('hello', { name: 'Ada' })));
    for (const reply of replies)
      assert.deepEqual(reply.json(), { greeting: 'Hello, Ada!' }, String(reply.error));
    rmSync(filler);
    await host.deploy('functions/markdown');
    const reply = await host.call('markdown', { markdown: '# Hi' });
    assert.deepEqual(reply.json(), { html: '<h1>Hi</h1>\n' });
  } finally {
    await host.stop();
  }
});

// On a larger disk Debian's 2.9 hangs, until it is restarted: 16 s with our client's patience.
test('a nats-server on a full disk keeps what it had, and more once there is room', async () => {
  using disk = new DiskImage('ext4', { sizeMiB: 256 });
  const stateDirectory = mkdtempSync(join(disk.mountPoint, 'hatch-test-'));
  const server = await startNatsServer({ stateDirectory, healthCheckMs: 300 });
  const options = { servers: server.url, token: server.token, maxReconnectAttempts: -1 };
  try {
    await using connection = disposed(await connect({ ...options, reconnectTimeWait: 50 }));
    const registry = await FunctionRegistry.open(connection.it);
    const [before, during] = [Buffer.alloc(4096, 'a'), Buffer.alloc(2 ** 20, 'b')];
    await registry.putLayer(before, digestOf(before));
    const filler = fill(disk.mountPoint);
    await assert.rejects(registry.putLayer(during, digestOf(during)), {
      code: 'host.nats_unavailable',
    });
    rmSync(filler);
    await until(() => registry.putLayer(during, digestOf(during)));
    for (const content of [before, during]) {
      const stream = await registry.getLayer(digestOf(content));
      assert.equal(digestOf(Buffer.concat(await stream.toArray())), digestOf(content));
    }
    await registry.close();
  } finally {
    await server.stop();
  }
});

/** Gives the file that takes what is left. */
function fill(directory: string): string {
  const path = join(directory, 'filler');
  const { bavail, bsize } = statfsSync(dirname(path));
  execFileSync('fallocate', ['--length', String(Math.floor(bavail * bsize * 0.98)), path]);
  for (const bytes of [2 ** 20, 4096])
    try {
      for (;;) appendFileSync(path, Buffer.alloc(bytes, 1), { flush: true });
    } catch (error) {
      assert.match(String(error), /ENOSPC/);
    }
  return path;
}

async function until(attempt: () => Promise<unknown>): Promise<void> {
  const giveUpAtMs = performance.now() + 20_000;
  for (;;)
    try {
      await attempt();
      return;
    } catch (error) {
      if (performance.now() > giveUpAtMs) throw error;
      await sleep(100);
    }
}

function disposed<T extends { close(): Promise<void> }>(it: T) {
  return { it, [Symbol.asyncDispose]: () => it.close() };
}
