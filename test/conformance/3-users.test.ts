/** Container users are others than the host's: root inside is nobody in particular outside. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { RunResult } from '../functions/probe/handler.ts';
import {
  buildProbe,
  enter,
  enterOk,
  processesOf,
  startProbe,
  uidBaseOf,
  type Probe,
} from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';

const getHost = hostForFile();
const functionUid = 1000;
const hostUid = 1000;
const overflowUid = 65_534;
/** As root of the container, in its user and mount namespaces, with all rights that gives. */
const containerRoot = ['--user', '--mount', '--setuid', '0', '--setgid', '0'];

test('3.1 container uids are a range of the host that no other container has', async () => {
  const host = getHost();
  const probes = await Promise.all(['range-a', 'range-b'].map((name) => startProbe(host, name)));
  const bases = probes.map(({ functionPid }) => uidBaseOf(functionPid));
  assert.ok(
    bases.every((base) => base >= 100_000 && base % 65_536 === 0),
    bases.join(' '),
  );
  assert.ok(Math.abs((bases[0] ?? 0) - (bases[1] ?? 0)) >= 65_536);
  for (const [index, probe] of probes.entries()) {
    const gidMap = readFileSync(`/proc/${probe.functionPid}/gid_map`, 'utf8');
    assert.deepEqual(gidMap.trim().split(/\s+/).map(Number), [0, bases[index], 65_536]);
    for (const { hostPid } of processesOf(host, probe.instanceId)) {
      const outside = (bases[index] ?? 0) + functionUid;
      const ids = `${outside}\t${outside}\t${outside}\t${outside}`;
      const status = readFileSync(`/proc/${hostPid}/status`, 'utf8');
      assert.ok(status.includes(`Uid:\t${ids}\n`) && status.includes(`Gid:\t${ids}\n`), status);
      assert.match(status, /^Groups:\t\s*$/m);
    }
    assert.equal((await probe.ask<{ uid: number }>({ do: 'view' })).uid, functionUid);
  }
});

test('3.1 root inside is nobody outside', async () => {
  const probe = await startProbe(getHost(), 'root');
  const directory = mkdtempSync(join(tmpdir(), 'hatch-root-'));
  const file = join(directory, 'file');
  try {
    chmodSync(directory, 0o755);
    writeFileSync(file, 'untouched', { mode: 0o644 });
    // In the host's mount namespace, so that the file is there to be reached.
    const asRoot = (script: string) =>
      enter(probe.functionPid, ['--user', '--setuid', '0', '--setgid', '0'], ['sh', '-c', script]);
    const { stdout } = asRoot(`id -u; cat ${file}; echo; grep Uid /proc/self/status`);
    assert.match(stdout, /^0\nuntouched\nUid:\t0\t0\t0\t0/);
    for (const attempt of [
      `echo changed > ${file}`,
      `chown 0 ${file}`,
      `chmod 666 ${file}`,
      `rm ${file}`,
      `touch ${directory}/new`,
      'kill -0 1',
      'mknod /dev/shm/hatch-device b 1 0',
    ]) {
      const refused = asRoot(attempt);
      assert.notEqual(refused.status, 0, attempt);
      assert.match(refused.stderr, /denied|not permitted/i, attempt);
    }
    assert.equal(readFileSync(file, 'utf8'), 'untouched');
    assert.equal(statSync(file).uid, 0);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('3.2 a file of container root belongs to the base outside, and to 0 inside', async () => {
  const probe = await startProbe(getHost(), 'owners');
  const base = uidBaseOf(probe.functionPid);
  const { functionPid } = probe;
  // In the root, which is an overlay, and in a tmpfs.
  for (const path of ['/root/by-root', '/tmp/by-root']) {
    enterOk(functionPid, containerRoot, ['touch', path]);
    enterOk(functionPid, containerRoot, ['chmod', '755', '/root']);
    assert.deepEqual(ownersOf(`/proc/${functionPid}/root${path}`), [base, base]);
    assert.deepEqual(await ownersInside(probe, path), [0, 0]);
  }
  for (const path of ['/home/function/own', '/tmp/own', '/function/own']) {
    await probe.ask({ do: 'write', path, text: 'x' });
    const outside = base + functionUid;
    assert.deepEqual(ownersOf(`/proc/${functionPid}/root${path}`), [outside, outside]);
    assert.deepEqual(await ownersInside(probe, path), [functionUid, functionUid]);
  }
  // Layers are the host's own files, shared by all: each container sees them as root's.
  assert.deepEqual(await ownersInside(probe, '/usr/local/bin/node'), [0, 0]);
});

test('3.3 a host file outside the map shows the overflow uid', async () => {
  const probe = await startProbe(getHost(), 'overflow');
  using program = buildProbe();
  const file = join(program.directory, 'file');
  writeFileSync(file, 'of the host', { mode: 0o644 });
  chownSync(file, hostUid, hostUid);
  await probe.ask({ do: 'write', path: '/tmp/file', text: 'of the function' });
  execFileSync(program.program, ['bind-into', String(probe.functionPid), file, '/tmp/file']);
  assert.equal(await probe.ask({ do: 'read', path: '/tmp/file' }), 'of the host');
  assert.deepEqual(await ownersInside(probe, '/tmp/file'), [overflowUid, overflowUid]);
  // The uid has the same number as the function's own, and is not it.
  const writing = probe.ask({ do: 'write', path: '/tmp/file', text: 'changed' });
  await assert.rejects(writing, /EACCES/);
  enterOk(probe.functionPid, ['--mount'], ['umount', '/tmp/file']);
});

test('3.4 a set-user-id file gives a function nothing', async () => {
  const probe = await startProbe(getHost(), 'suid-default');
  const { functionPid } = probe;
  const expected = { real: functionUid, effective: functionUid, saved: functionUid };
  for (const place of ['/tmp', '/home/function']) {
    const path = `${place}/suid`;
    installSetUserId(probe, path, uidBaseOf(functionPid));
    assert.deepEqual(await identityInside(probe, path), expected, path);
  }
});

test('3.4 without nosuid and no_new_privs it gives container root, never host root', async () => {
  const probe = await startProbe(getHost(), 'suid-open');
  const { functionPid } = probe;
  const base = uidBaseOf(functionPid);
  const name = `hatch-suid-${randomBytes(4).toString('hex')}`;
  enterOk(functionPid, ['--mount'], ['mount', '-t', 'tmpfs', '-o', 'mode=1777', name, '/tmp']);
  installSetUserId(probe, '/tmp/of-container-root', base);
  installSetUserId(probe, '/tmp/of-host-root', 0);
  // Another process than the function: it has the function's uid, and is not under its locks.
  const asFunctionUser = ['--user', '--mount', '--setuid', '1000', '--setgid', '1000'];
  const identityOf = (path: string) =>
    JSON.parse(enterOk(functionPid, asFunctionUser, [path, 'identity'])) as unknown;
  assert.deepEqual(identityOf('/tmp/of-container-root'), { real: 1000, effective: 0, saved: 0 });
  const nothing = { real: functionUid, effective: functionUid, saved: functionUid };
  assert.deepEqual(identityOf('/tmp/of-host-root'), nothing);
  // With no_new_privs alone, as the function has it, both give nothing.
  for (const path of ['/tmp/of-container-root', '/tmp/of-host-root'])
    assert.deepEqual(await identityInside(probe, path), nothing, path);
  enterOk(functionPid, ['--mount'], ['umount', '/tmp']);
});

/** A copy of the probe's program, owned by a user of the host. */
function installSetUserId(probe: Probe, path: string, ownerUid: number): void {
  const outside = `/proc/${probe.functionPid}/root${path}`;
  copyFileSync(`/proc/${probe.functionPid}/root/function/probe`, outside);
  chownSync(outside, ownerUid, ownerUid);
  // After the change of owner, which clears the bit.
  chmodSync(outside, 0o4755);
  assert.equal(statSync(outside).mode & 0o7777, 0o4755);
}

async function identityInside(probe: Probe, path: string): Promise<unknown> {
  const result = await probe.ask<RunResult>({ do: 'run', command: [path, 'identity'] });
  assert.equal(result.status, 0, JSON.stringify(result));
  return JSON.parse(result.stdout);
}

async function ownersInside(probe: Probe, path: string): Promise<[number, number]> {
  const { uid, gid } = await probe.ask<{ uid: number; gid: number }>({ do: 'stat', path });
  return [uid, gid];
}

function ownersOf(path: string): [number, number] {
  const { uid, gid } = statSync(path);
  return [uid, gid];
}
