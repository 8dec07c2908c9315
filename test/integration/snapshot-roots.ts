/** Hosts whose state directory is on a file system with snapshots, as a suite for any of those. */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { startProbe, type Probe } from '../support/containers.ts';
import { DiskHost } from '../support/disk-host.ts';
import type { DiskImage } from '../support/disk-image.ts';
import { startHost } from '../support/host.ts';

const MiB = 2 ** 20;
const EDQUOT = 122;

/** `namesOf` lists what a driver has made on the disk for its stacks, or its roots, by name. */
export function snapshotRootsSuite(
  type: 'btrfs' | 'zfs',
  namesOf: (disk: DiskImage, stateDirectory: string) => string[],
): void {
  suite(`roots on ${type}`, () => {
    let onDisk: DiskHost;
    const names = (): string[] => namesOf(onDisk.disk, onDisk.host.stateDirectory);

    before(async () => {
      onDisk = await DiskHost.start(type, { sizeMiB: 4096 });
    });
    after(() => onDisk[Symbol.asyncDispose]());

    test('a function that names no driver has a snapshot, and copies no file', async () => {
      await onDisk.host.deploy('functions/ledger', { name: 'by-default' });
      await onDisk.host.deploy('functions/ledger', { name: 'on-overlay', storage: 'overlay' });
      const copied = async (name: string): Promise<number[]> => {
        const reply = await onDisk.host.call(name, { account: 7, amount: 1 });
        assert.equal(reply.error, undefined);
        const { copyUps } = await onDisk.host.trace(reply.requestId);
        return copyUps.map(({ bytesCopied }) => bytesCopied);
      };
      assert.deepEqual(await copied('by-default'), []);
      assert.deepEqual(await copied('on-overlay'), [8 * MiB]);
    });

    test('a root has the ids of its container, and starts as its layers', async () => {
      const probe = await startProbe(onDisk.host, 'fresh', { reuse: 'never', storage: type });
      assert.equal(await rootType(probe), type);
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
      const probe = await startProbe(onDisk.host, 'full', { memoryMb: 256 });
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
      assert.notDeepEqual(names(), []);
      await onDisk.host.stop({ keepState: true });
      assert.deepEqual(names(), []);
    });

    test('nor does one that was killed, once it runs again', async () => {
      onDisk.host = await startHost({ config: onDisk.host.config });
      await onDisk.host.call('by-default', { account: 7, amount: 1 });
      const before = names();
      assert.ok(before.length > 0);
      await onDisk.host.kill();
      onDisk.host = await startHost({ config: onDisk.host.config });
      const left = names().filter((name) => before.includes(name));
      assert.deepEqual(left, []);
    });
  });
}

function rootType(probe: Probe): Promise<string> {
  return probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n');
    return mounts.map((line) => line.split(' ')).find(([, path]) => path === '/')?.[2] ?? '';
  });
}
