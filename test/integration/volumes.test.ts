/** Volumes of functions: what outlives instances and hosts, and who can see it. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { sealSecret, secretIdOf } from '../../host/function/secret-box.ts';
import { mountOwn } from '../../host/sandbox/own-mounts.ts';
import { startProbe, type Probe } from '../support/containers.ts';
import { DiskHost, newStateDirectory } from '../support/disk-host.ts';
import { startHost, type TestHost } from '../support/host.ts';

const volumes = [{ name: 'data', path: '/data/of/mine', sizeMb: 32 }];
const { errno } = constants;
const owner = { tenant: 'default', functionName: 'fn' };
const unused = { mount: () => assert.fail('it is mounted') };
let onDisk: DiskHost;
let host: TestHost;

before(async () => {
  onDisk = await DiskHost.start('btrfs', { sizeMiB: 4096 });
  ({ host } = onDisk);
});
after(() => onDisk[Symbol.asyncDispose]());

test('parked and forked, a volume is its user’s, and the next find it as it was', async () => {
  const probe = await startProbe(host, 'looks', { volumes, reuse: 'never' });
  for (let index = 1; index <= 4; index++) {
    const { lines, ...one } = await look(probe);
    const seen = { uid: 1000, gid: 1000, mode: 0o40700, parent: 0, executes: 'EACCES' };
    assert.deepEqual(one, { ...seen, options: 'rw,nosuid,nodev,noexec' });
    assert.equal(lines, index, 'instances after each other have the same files');
  }
});

test('a function has as many as it may, with a network and secrets besides', async () => {
  const many = Array.from({ length: 8 }, (_, n) => ({
    name: `v${n}`,
    path: `/data/v${n}`,
    sizeMb: 16,
  }));
  const network = { egress: ['443/tcp'] };
  const { reply } = await host.client.askAny('secret.key', {});
  const sealing = {
    publicKey: reply.publicKey,
    name: secretIdOf({ tenant: 'default', name: 'KEY' }),
    value: Buffer.from('opened'),
  };
  await host.client.ask('secret.set', { name: 'KEY', box: sealSecret(sealing) });
  const secrets = ['KEY'];
  const probe = await startProbe(host, 'many', { volumes: many, network, secrets });
  const [secret, ...texts] = await probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    for (let n = 0; n < 8; n++) fs.writeFileSync(`/data/v${n}/file`, `of ${n}`);
    const files = Array.from({ length: 8 }, (_, n) => `/data/v${n}/file`);
    return ['/run/secrets/KEY', ...files].map((file) => fs.readFileSync(file, 'utf8'));
  });
  assert.equal(secret, 'opened');
  assert.deepEqual(
    texts,
    many.map((_, n) => `of ${n}`),
  );
});

test('what is copied into a volume counts for it, wherever it comes from', async () => {
  const probe = await startProbe(host, 'copies', { volumes, memoryMb: 256 });
  const failed = await probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    fs.writeFileSync('/home/function/file', Buffer.alloc(12 * 2 ** 20, 1));
    for (let n = 0; n < 4; n++) {
      try {
        fs.copyFileSync('/home/function/file', `/data/of/mine/${n}`, fs.constants.COPYFILE_FICLONE);
        const fd = fs.openSync(`/data/of/mine/${n}`, 'r');
        fs.fsyncSync(fd);
        fs.closeSync(fd);
      } catch (error) {
        return (error as NodeJS.ErrnoException).errno;
      }
    }
    return 0;
  });
  assert.ok(failed === -errno.EDQUOT || failed === -errno.ENOSPC, String(failed));
});

test('what was fsynced is there after the host was killed', async () => {
  const probe = await startProbe(host, 'keeper', { volumes });
  await append(probe, 'before');
  await host.kill();
  host = onDisk.host = await startHost({ config: host.config });
  const { lines } = await evaluateOn('keeper', () => {
    const fs = process.getBuiltinModule('node:fs');
    return { lines: fs.readFileSync('/data/of/mine/log', 'utf8') };
  });
  assert.equal(lines, 'before');
});

test('instances at one time share it; other functions and tenants have their own', async () => {
  const probe = await startProbe(host, 'shared', { volumes, reuse: 'never' });
  await Promise.all(['a', 'b', 'c'].map((text) => append(probe, text)));
  const log = await evaluateOn('shared', () =>
    process.getBuiltinModule('node:fs').readFileSync('/data/of/mine/log', 'utf8'),
  );
  assert.deepEqual(log.split('').toSorted(), ['a', 'b', 'c']);
  const others = [
    await startProbe(host, 'not-shared', { volumes }),
    await startProbe(host, 'not-mine', { volumes, tenant: 'other' }),
  ];
  for (const other of others) assert.deepEqual(await namesIn(other), []);
  await host.client.ask('rm', { name: 'shared' });
  const taken = await startProbe(host, 'shared', { volumes, tenant: 'other' });
  assert.deepEqual(await namesIn(taken), [], 'the name of a function is not whose it is');
});

test('a volume has its size; a later version changes it and keeps the files', async () => {
  const probe = await startProbe(host, 'full', { volumes, memoryMb: 256 });
  assert.match(await fill(probe), new RegExp(`^-(${errno.EDQUOT}|${errno.ENOSPC})$`));
  const larger = await startProbe(host, 'full', {
    volumes: [{ ...volumes[0], sizeMb: 64 }],
    memoryMb: 256,
  });
  assert.equal(await fill(larger), 'fits');
});

test('a volume stays when its function is removed, until it is removed itself', async () => {
  await startProbe(host, 'gone', { volumes });
  const inUse = await hatch('volume', 'rm', 'gone', 'data');
  assert.match(inUse.stderr, /a version of function "gone" has it.*\(volume\.in_use\)/s);
  await host.client.ask('rm', { name: 'gone' });
  const listed = await hatch('volume', 'ls');
  assert.match(listed.stdout, / default +gone +data +\S+ KiB +32\.0 MiB *$/m);
  const removed = await hatch('volume', 'rm', 'gone', 'data');
  assert.equal(removed.stdout, `data of gone is removed on ${host.name}\n`);
  assert.doesNotMatch((await hatch('volume', 'ls')).stdout, / gone /);
  const again = await hatch('volume', 'rm', 'gone', 'data');
  assert.match(again.stderr, /volume\.not_found/);
});

test('a tenant sees and removes its own only', async () => {
  await startProbe(host, 'ours', { volumes, tenant: 'acme' });
  await host.client.ask('rm', { name: 'ours' });
  assert.doesNotMatch((await hatch('volume', 'ls', '--tenant', 'beta')).stdout, / ours /);
  const foreign = await hatch('volume', 'rm', 'ours', 'data', '--tenant', 'beta');
  assert.match(foreign.stderr, /volume\.not_found/);
  assert.match((await hatch('volume', 'ls', '--tenant', 'acme')).stdout, / acme +ours +data /);
  const removed = await hatch('volume', 'rm', 'ours', 'data', '--tenant', 'acme');
  assert.equal(removed.code, 0, removed.stderr);
});

test('Landlock and rights leave nothing else on the way to it open', async () => {
  const probe = await startProbe(host, 'rights', { volumes });
  const tried = await probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    return ['/data', '/data/of', '/'].map((directory) => {
      try {
        return fs.mkdtempSync(`${directory}/x`);
      } catch (error) {
        return (error as NodeJS.ErrnoException).code;
      }
    });
  });
  assert.deepEqual(tried, ['EACCES', 'EACCES', 'EACCES']);
});

test('a path on which an image has no directory is refused', (context) => {
  const image = mkdtempSync(join(tmpdir(), 'hatch-test-'));
  symlinkSync('/etc', join(image, 'link'));
  writeFileSync(join(image, 'file'), '');
  const mountFd = openSync(image, 'r');
  context.after(() => {
    closeSync(mountFd);
    rmSync(image, { recursive: true });
  });
  for (const path of ['/link', '/link/below', '/file', '/file/below']) {
    const [volume] = volumes.map((one) => ({ ...one, ...owner, path, sizeBytes: 1 }));
    assert.ok(volume);
    const own = { mountFd, range: { firstHostId: 0, userNamespaceFd: -1 } };
    assert.throws(() => mountOwn({ volumes: [volume] }, { ...own, volumes: unused }), {
      code: 'function.load_failed',
      message: /Cannot attach volume "data": .* at "\/(link|file)\S*": .*choose another path/,
    });
  }
});

test('a Node.js that is executed has volumes too', async (context) => {
  const stateDirectory = newStateDirectory(onDisk.disk);
  const other = await startHost({ config: { fork: 'never', stateDirectory } });
  context.after(() => other.stop());
  const probe = await startProbe(other, 'booted', { volumes });
  assert.equal((await look(probe)).lines, 1);
});

test('a host that is on no file system with checksums refuses them, and says why', async () => {
  const other = await startHost();
  try {
    await assert.rejects(other.deploy('functions/hello', { volumes }), {
      code: 'host.unsupported',
      message: /Cannot offer the volumes of "hello": .* put it on btrfs/,
    });
    assert.match(await doctorOn(other), /^none: .* btrfs/);
    assert.match(await doctorOn(host), /^\d+ of at most 1024, /);
  } finally {
    await other.stop();
  }
});

async function doctorOn(one: TestHost): Promise<string> {
  const { reply } = await one.client.askAny('doctor', {});
  return reply.checks.find(({ name }) => name === 'volumes')?.detail ?? '';
}

interface Look {
  uid: number;
  gid: number;
  mode: number;
  parent: number;
  options: string | undefined;
  executes: string | undefined;
  lines: number;
}

function look(probe: Probe): Promise<Look> {
  return probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    const { uid, gid, mode } = fs.statSync('/data/of/mine');
    fs.appendFileSync('/data/of/mine/log', 'x\n', { flush: true });
    fs.writeFileSync('/data/of/mine/program', '#!/bin/sh\n', { mode: 0o755 });
    const { spawnSync } = process.getBuiltinModule('node:child_process');
    const { error } = spawnSync('/data/of/mine/program');
    const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n');
    const mount = mounts.map((line) => line.split(' ')).find((one) => one[1] === '/data/of/mine');
    return {
      uid,
      gid,
      mode,
      parent: fs.statSync('/data/of').uid,
      options: mount?.[3]?.split(',').slice(0, 4).join(','),
      executes: (error as NodeJS.ErrnoException | undefined)?.code,
      lines: fs.readFileSync('/data/of/mine/log', 'utf8').split('\n').length - 1,
    };
  });
}

async function append(probe: Probe, text: string): Promise<void> {
  const wrote = await probe.evaluate((what) => {
    const fs = process.getBuiltinModule('node:fs');
    fs.appendFileSync('/data/of/mine/log', what, { flush: true });
    return what;
  }, text);
  assert.equal(wrote, text);
}

/** On a host that was started again: the function is there, its probe is not. */
async function evaluateOn<T>(name: string, fn: () => T): Promise<T> {
  return (await host.call(name, { do: 'evaluate', source: String(fn) })).json<T>();
}

async function hatch(...args: string[]) {
  const child = spawn(resolve(import.meta.dirname, '../../ops/hatch'), args, {
    env: { PATH: process.env['PATH'], HATCH_STATE_DIRECTORY: host.stateDirectory },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number | null>((done) => child.once('exit', done)),
  ]);
  return { code, stdout, stderr };
}

function namesIn(probe: Probe): Promise<string[]> {
  return probe.evaluate(() => process.getBuiltinModule('node:fs').readdirSync('/data/of/mine'));
}

/** The number of the error that a file of 48 MiB meets. */
function fill(probe: Probe): Promise<string> {
  return probe.evaluate(() => {
    const fs = process.getBuiltinModule('node:fs');
    try {
      fs.writeFileSync('/data/of/mine/file', Buffer.alloc(48 * 2 ** 20, 1), { flush: true });
      return 'fits';
    } catch (error) {
      return String((error as NodeJS.ErrnoException).errno);
    }
  });
}
