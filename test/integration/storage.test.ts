/** Functions choose where their files are: on hosts whose state directory is on btrfs, and not. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startProbe, type Probe } from '../support/containers.ts';
import { DiskImage } from '../support/disk-image.ts';
import { startHost, type TestHost } from '../support/host.ts';

const MiB = 2 ** 20;
const EDQUOT = 122;
let disk: DiskImage;
let host: TestHost;

before(async () => {
  disk = new DiskImage('btrfs', { sizeMiB: 4096 });
  const stateDirectory = mkdtempSync(join(disk.mountPoint, 'hatch-test-'));
  host = await startHost({ config: { stateDirectory } });
});
after(async () => {
  try {
    await host.stop();
  } finally {
    disk[Symbol.dispose]();
  }
});

test('on btrfs a function that names no driver has a snapshot, and copies no file', async () => {
  await host.deploy('functions/ledger', { name: 'on-btrfs' });
  await host.deploy('functions/ledger', { name: 'on-overlay', storage: 'overlay' });
  const entry = { account: 7, amount: 1 };
  const copied = async (name: string): Promise<number[]> => {
    const reply = await host.call(name, entry);
    assert.equal(reply.error, undefined);
    const { copyUps } = await host.trace(reply.requestId);
    return copyUps.map(({ bytesCopied }) => bytesCopied);
  };
  assert.deepEqual(await copied('on-btrfs'), []);
  assert.deepEqual(await copied('on-overlay'), [8 * MiB]);
});

test('a root on btrfs has the ids of its container, and starts as its layers', async () => {
  const probe = await startProbe(host, 'fresh', { reuse: 'never' });
  assert.equal(await rootType(probe), 'btrfs');
  const looks: unknown[] = [];
  for (let call = 0; call < 4; call++)
    looks.push(
      await probe.evaluate(() => {
        const fs = process.getBuiltinModule('node:fs');
        const { uid, mode } = fs.statSync('/');
        fs.appendFileSync('/function/left-behind', 'x');
        return { uid, mode, bytes: fs.statSync('/function/left-behind').size };
      }),
    );
  const fresh = { uid: 0, mode: 0o40755, bytes: 1 };
  assert.deepEqual(looks, [fresh, fresh, fresh, fresh]);
});

test('what an instance writes is limited', async () => {
  const probe = await startProbe(host, 'full', { memoryMb: 256 });
  const full = await probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    const piece = Buffer.alloc(2 ** 20, 1);
    for (let mebibytes = 0; mebibytes < 600; mebibytes++) {
      try {
        fs.appendFileSync('/function/full', piece);
      } catch (error) {
        return { mebibytes, errno: (error as NodeJS.ErrnoException).errno };
      }
    }
    return undefined;
  });
  assert.equal(full?.errno, -EDQUOT);
  assert.ok(full.mebibytes > 450 && full.mebibytes < 512, `${full.mebibytes} MiB`);
});

test('a host that was stopped leaves nothing of its functions on the disk', async () => {
  const directory = join(host.stateDirectory, 'btrfs');
  assert.notDeepEqual(readdirSync(join(directory, 'stacks')), []);
  await host.stop({ keepState: true });
  assert.deepEqual(readdirSync(join(directory, 'roots')), []);
  assert.deepEqual(readdirSync(join(directory, 'stacks')), []);
});

test('nor does one that was killed, once it runs again', async () => {
  const directory = join(host.stateDirectory, 'btrfs');
  host = await startHost({ config: host.config });
  await host.call('on-btrfs', { account: 7, amount: 1 });
  const before = readdirSync(join(directory, 'roots'));
  assert.ok(before.length > 0);
  await host.kill();
  host = await startHost({ config: host.config });
  const after = readdirSync(join(directory, 'roots'));
  assert.deepEqual(
    after.filter((name) => before.includes(name)),
    [],
  );
});

test('a host that is not on btrfs refuses a function that wants it, and says why', async () => {
  const other = await startHost();
  try {
    await assert.rejects(
      other.deploy('functions/hello', { storage: 'btrfs' }),
      /Cannot offer storage "btrfs": the state directory ".*" is not on btrfs/,
    );
  } finally {
    await other.stop();
  }
});

function rootType(probe: Probe): Promise<string> {
  return probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n');
    return mounts.map((line) => line.split(' ')).find(([, path]) => path === '/')?.[2] ?? '';
  });
}
