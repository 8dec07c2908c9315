/** What every volume driver promises (host/storage/volumes.ts), as a suite for any. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Volumes, type Volume } from '../../host/storage/volumes.ts';
import { attachMount, detachMount } from '../../host/sys/mount.ts';
import { makeUserNamespace } from '../../host/sys/user-namespace.ts';

const MiB = 2 ** 20;
const firstHostId = 700_000_000;
const functionId = firstHostId + 1000;
const volume: Volume = { tenant: 'acme', functionName: 'fn', name: 'data', sizeBytes: 32 * MiB };

/**
 * `directory` is on the driver's file system, and empty. The caller has a mount namespace of its
 * own, where volumes are attached.
 */
export function volumeSuite(name: string, directory: () => string): void {
  describe(`volumes: ${name}`, () => {
    test('what is written stays, for whoever opens them next', async () => {
      {
        using mounted = await open(volume);
        mounted.run('echo kept >file; sync file');
      }
      using again = await open(volume);
      assert.equal(again.run('cat file').stdout, 'kept\n');
    });

    test('ids are those of the container, for two at a time', async () => {
      using mounted = await open(volume);
      const { uid, gid, mode } = fs.statSync(mounted.path);
      assert.deepEqual([uid, gid, mode & 0o7777], [functionId, functionId, 0o700]);
      using other = await open(volume, firstHostId + 65_536);
      mounted.run('echo one >of-one');
      assert.equal(other.run('cat of-one; echo two >>of-one').stdout, 'one\n');
      assert.equal(fs.statSync(join(mounted.path, 'of-one')).uid, functionId);
      assert.equal(fs.statSync(join(other.path, 'of-one')).uid, functionId + 65_536);
    });

    test('nothing on it can be executed, and nothing has rights of its own', async () => {
      using mounted = await open(volume);
      const { status, stderr } = mounted.run('cp /bin/true true && ./true');
      assert.equal(status, 126, stderr);
      const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n');
      const line = mounts.find((one) => one.includes(` ${mounted.path} `)) ?? '';
      assert.match(line, / rw,nosuid,nodev,noexec,/);
    });

    test('each tenant, function and name has its own', async () => {
      using mounted = await open(volume);
      mounted.run('touch mine');
      const others = [{ tenant: 'other' }, { functionName: 'other' }, { name: 'other' }];
      for (const other of others) {
        using theirs = await open({ ...volume, ...other });
        assert.deepEqual(fs.readdirSync(theirs.path), []);
      }
    });

    test('what is beyond the size is refused, and fits once the size has grown', async () => {
      const small = { ...volume, name: 'small' };
      const write = 'dd if=/dev/zero of=file bs=1M count=40 conv=fsync';
      using mounted = await open(small);
      assert.match(mounted.run(write).stderr, /Disk quota exceeded|No space left on device/);
      using larger = await open({ ...small, sizeBytes: 64 * MiB });
      assert.equal(mounted.run(write).status, 0);
      assert.equal(fs.statSync(join(larger.path, 'file')).size, 40 * MiB);
    });

    test('none that is held is removed', async () => {
      const volumes = Volumes.open(directory());
      const held = { ...volume, name: 'held' };
      const release = await volumes.hold([held, { ...held, name: 'beside' }]);
      let isRemoved = false;
      const removing = volumes.remove(held).then(() => (isRemoved = true));
      const releaseSecond = await volumes.hold([held]);
      release();
      release();
      await turn();
      assert.equal(isRemoved, false, 'the second still has it');
      releaseSecond();
      await removing;
      assert.ok(!fs.existsSync(join(directory(), 'volumes/acme/fn/held')));
      const releaseThird = await volumes.hold([held]);
      const late = assert.rejects(volumes.remove(held), { code: 'volume.in_use' });
      releaseThird();
      const releaseLast = await volumes.hold([held]);
      await late;
      assert.ok(fs.existsSync(join(directory(), 'volumes/acme/fn/held')));
      releaseLast();
    });

    test('they are listed with what they take, and removed', async () => {
      const volumes = Volumes.open(directory());
      for (const id of volumes.list()) assert.equal(await volumes.remove(id), true);
      {
        using mounted = await open(volume);
        mounted.run('dd if=/dev/zero of=file bs=1M count=4 conv=fsync; sync');
      }
      const [one, ...others] = volumes.list();
      const { usedBytes = 0, ...rest } = one ?? {};
      const { tenant, functionName, name } = volume;
      assert.deepEqual(rest, { tenant, functionName, name, limitBytes: 32 * MiB });
      assert.deepEqual(others, []);
      assert.ok(usedBytes >= 4 * MiB && usedBytes < 5 * MiB, `${usedBytes}`);
      assert.equal(await volumes.remove(volume), true);
      assert.deepEqual(volumes.list(), []);
      assert.deepEqual(fs.readdirSync(join(directory(), 'volumes')), []);
      assert.equal(await volumes.remove(volume), false);
    });

    test('one that was not ready at a crash is made anew', async () => {
      (await Volumes.open(directory()).hold([volume]))();
      const home = join(directory(), 'volumes/acme/fn');
      fs.renameSync(join(home, 'data'), join(home, '.data'));
      fs.chownSync(join(home, '.data'), 0, 0);
      assert.deepEqual(Volumes.open(directory()).list(), []);
      using mounted = await open(volume);
      assert.equal(fs.statSync(mounted.path).uid, functionId);
      assert.deepEqual(fs.readdirSync(home), ['data']);
    });
  });

  /** As a start does; made twice at a time, as by two versions. */
  async function open(wanted: Volume, firstId = firstHostId) {
    const volumes = Volumes.open(directory());
    await Promise.all([volumes.hold([wanted]), volumes.hold([wanted])]);
    const userNamespaceFd = makeUserNamespace({ firstHostId: firstId, count: 65_536 });
    const mountFd = volumes.mount(wanted, userNamespaceFd);
    fs.closeSync(userNamespaceFd);
    const path = fs.mkdtempSync(join(tmpdir(), 'hatch-volume-'));
    attachMount(mountFd, path);
    fs.closeSync(mountFd);
    const id = firstId + 1000;
    return {
      path,
      /** As the function. */
      run: (script: string) =>
        spawnSync('sh', ['-c', script], { cwd: path, uid: id, gid: id, encoding: 'utf8' }),
      [Symbol.dispose]: () => {
        detachMount(path);
        fs.rmdirSync(path);
      },
    };
  }
}
