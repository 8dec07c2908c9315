/** An instance sees its own processes, mounts, network, IPC, names and groups, no others. */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import type { RunResult, View } from '../functions/probe/handler.ts';
import {
  buildProbe,
  enter,
  enterOk,
  isAlive,
  namespacesOf,
  processesOf,
  runInIpcOf,
  startProbe,
} from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';

const getHost = hostForFile();

test('1.1 a chroot of the same image sees the host, a container does not', async () => {
  const host = getHost();
  const server = createServer((socket) => socket.end('hello from the host'));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  // The same questions, asked by the same shell of the same image.
  const look = [
    'echo pids $(ls /proc | grep "^[0-9]*$")',
    'echo interfaces $(tail -n +3 /proc/net/dev | cut -d: -f1)',
    'echo pidNamespace $(readlink /proc/self/ns/pid)',
    `echo server $(sleep 0.3 | nc 127.0.0.1 ${address.port} 2>&1)`,
    `said=$(kill -CONT ${process.pid} 2>&1) && echo signal ok || echo signal refused`,
  ].join('\n');
  try {
    const inChroot = answersOf(await runInChroot(join(host.stateDirectory, 'images/layers'), look));
    const probe = await startProbe(host, 'bare');
    const asked = await probe.ask<RunResult>({ do: 'run', command: ['/bin/sh', '-c', look] });
    const inContainer = answersOf(asked.stdout);

    assert.ok(inChroot['pids']?.split(' ').includes(String(process.pid)));
    assert.equal(inChroot['interfaces'], interfacesOf(readFileSync('/proc/net/dev', 'utf8')));
    assert.equal(inChroot['pidNamespace'], namespacesOf('self')['pid']);
    assert.equal(inChroot['server'], 'hello from the host');
    assert.equal(inChroot['signal'], 'ok');

    assert.ok(inContainer['pids']?.split(' ').every((pid) => Number(pid) < 100));
    assert.equal(inContainer['interfaces'], 'lo');
    assert.notEqual(inContainer['pidNamespace'], namespacesOf('self')['pid']);
    assert.doesNotMatch(inContainer['server'] ?? '', /hello/);
    assert.equal(inContainer['signal'], 'refused');
  } finally {
    server.close();
  }
});

/** With /proc, as every manual on chroot says. Its mounts end with it. */
async function runInChroot(layersDirectory: string, script: string): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-chroot-'));
  try {
    const layers = readdirSync(layersDirectory).map((name) => join(layersDirectory, name));
    const build = `set -e
      mount -t overlay -o lowerdir=${layers.join(':')} hatch-chroot ${directory}
      mount -t proc proc ${directory}/proc
      exec chroot ${directory} /bin/sh -c "$1"`;
    const args = ['--mount', '--propagation', 'private', 'sh', '-c', build, 'sh', script];
    // Not execFileSync: the test's own server has to answer meanwhile.
    return (await promisify(execFile)('unshare', args)).stdout;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function answersOf(text: string): Record<string, string> {
  const pairs = text
    .trim()
    .split('\n')
    .map((line) => /^(\S+) ?(.*)$/.exec(line));
  return Object.fromEntries(pairs.map((pair) => [pair?.[1] ?? '', pair?.[2] ?? '']));
}

function interfacesOf(text: string): string {
  const lines = text.trim().split('\n').slice(2);
  return lines.map((line) => line.split(':')[0]?.trim()).join(' ');
}

test('1.2 process ids start at 1, and /proc lists the own ones only', async () => {
  const host = getHost();
  const probe = await startProbe(host, 'pids');
  const { pid, parentPid, pids } = await probe.ask<View>({ do: 'view' });
  assert.deepEqual({ pid, parentPid, pids }, { pid: 2, parentPid: 1, pids: [1, 2] });
  const child = await probe.ask<number>({ do: 'start', command: ['sleep', '60'] });
  assert.ok(child > 2 && child < 100, `${child}`);
  const listed = await probe.ask<View>({ do: 'view' });
  assert.deepEqual(listed.pids, [1, 2, child]);
  // The kernel's own list of the instance's processes is the same: /proc hides none of them.
  const outside = processesOf(host, probe.instanceId);
  assert.deepEqual(
    outside.map(({ nsPid }) => nsPid),
    listed.pids,
  );
  for (const { hostPid } of outside) {
    const signalled = probe.ask({ do: 'kill', pid: hostPid, signal: 'SIGKILL' });
    // By chance a host's id may exist inside, too.
    if (!listed.pids.includes(hostPid)) await assert.rejects(signalled, /ESRCH/);
  }
  assert.ok(outside.every(({ hostPid }) => isAlive(hostPid)));
});

test('1.3 a kill of pid 123 in one container never touches pid 123 in another', async () => {
  const host = getHost();
  const probes = await Promise.all(['kills', 'lives'].map((name) => startProbe(host, name)));
  const [kills, lives] = probes;
  assert.ok(kills && lives);
  for (const probe of probes) assert.equal(await probe.run('fork-to', '123'), '123');
  const outside = probes.map(
    ({ instanceId }) => processesOf(host, instanceId).find(({ nsPid }) => nsPid === 123)?.hostPid,
  );
  const [killed, living] = outside;
  assert.ok(killed !== undefined && living !== undefined && killed !== living);

  assert.equal(await kills.ask({ do: 'kill', pid: 123, signal: 'SIGKILL' }), true);
  assert.deepEqual((await kills.ask<View>({ do: 'view' })).pids, [1, 2]);
  assert.deepEqual((await lives.ask<View>({ do: 'view' })).pids, [1, 2, 123]);
  assert.deepEqual([isAlive(killed), isAlive(living)], [false, true]);
});

test('1.4 mounts inside never show outside, nor the reverse', async () => {
  const host = getHost();
  const outside = () => mountsOf('self') + mountsOf(1);
  const before = outside();
  const probe = await startProbe(host, 'mounts');
  const inside = () => mountsOf(probe.functionPid);
  const { mounts } = await probe.ask<View>({ do: 'view' });
  // What covers parts of /proc is a mount as well.
  const points = mounts.map(({ point }) => point).filter((point) => !point.startsWith('/proc/'));
  assert.deepEqual(points.toSorted(), ['/', '/dev', '/dev/shm', '/proc', '/tmp']);
  assert.equal(outside(), before);

  // Whoever has the rights that the function lacks mounts something inside, and at the same place
  // outside: in the test's, and in the host's own mount namespace.
  const name = `hatch-mount-${randomBytes(4).toString('hex')}`;
  const directory = mkdtempSync(join(tmpdir(), 'hatch-mount-'));
  try {
    const ownMounts = inside();
    enterOk(probe.functionPid, ['--mount'], ['mount', '-t', 'tmpfs', `${name}-inside`, '/tmp']);
    assert.match(inside(), new RegExp(`${name}-inside`));
    assert.match((await probe.ask<string>({ do: 'read', path: '/proc/mounts' })) ?? '', /-inside/);
    assert.equal(outside(), before);
    assert.doesNotMatch(mountsOf(host.pid), new RegExp(name));
    enterOk(probe.functionPid, ['--mount'], ['umount', '/tmp']);
    assert.equal(inside(), ownMounts);

    execFileSync('mount', ['-t', 'tmpfs', `${name}-test`, directory]);
    enterOk(host.pid, ['--mount'], ['mount', '-t', 'tmpfs', `${name}-host`, directory]);
    assert.match(mountsOf('self'), new RegExp(`${name}-test`));
    assert.match(mountsOf(host.pid), new RegExp(`${name}-host`));
    assert.equal(inside(), ownMounts);
  } finally {
    spawnSync('umount', [directory]);
    enter(host.pid, ['--mount'], ['umount', directory]);
    rmSync(directory, { recursive: true });
  }
  assert.equal(outside(), before);
});

function mountsOf(pid: number | 'self'): string {
  return readFileSync(`/proc/${pid}/mountinfo`, 'utf8');
}

test('1.5 one port is bound in two containers and on the host at once', async () => {
  const host = getHost();
  const probes = await Promise.all(['port-a', 'port-b'].map((name) => startProbe(host, name)));
  const server = createServer((socket) => socket.end('host'));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const { port } = address;
  try {
    for (const probe of probes) {
      // Nobody listens on this loopback, though the host does, and then a sibling.
      assert.equal(await probe.ask({ do: 'connect', port }), 'ECONNREFUSED');
      assert.equal(await probe.ask({ do: 'listen', port, greeting: probe.name }), 'listening');
      // Within one network namespace it would be refused.
      assert.equal(await probe.ask({ do: 'listen', port, greeting: 'again' }), 'EADDRINUSE');
    }
    for (const probe of probes) assert.equal(await probe.ask({ do: 'connect', port }), probe.name);
    assert.equal(server.listening, true);
  } finally {
    server.close();
  }
});

test('1.5 interfaces, routes and routing rules are its own', async () => {
  const probe = await startProbe(getHost(), 'links');
  const { interfaces, routes } = await probe.ask<View>({ do: 'view' });
  assert.deepEqual({ interfaces, routes }, { interfaces: ['lo'], routes: [] });
  const net = `--net=/proc/${probe.functionPid}/ns/net`;
  const inside = (...args: string[]) => execFileSync('nsenter', [net, ...args]).toString();
  const outside = (...args: string[]) => execFileSync('ip', args).toString();
  const look = () => [outside('route', 'show', 'table', 'all'), outside('rule')];
  const before = look();

  const name = `hatch${randomBytes(4).toString('hex')}`;
  inside('ip', 'link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}p`);
  inside('ip', 'link', 'set', name, 'up');
  inside('ip', 'route', 'add', '192.0.2.0/24', 'dev', name);
  inside('ip', 'rule', 'add', 'from', '192.0.2.1', 'table', '100');
  assert.match(inside('ip', 'rule'), /192\.0\.2\.1/);
  assert.deepEqual(look(), before);
  assert.doesNotMatch(outside('link'), new RegExp(name));
  const after = await probe.ask<View>({ do: 'view' });
  assert.deepEqual(after.interfaces, [name, `${name}p`, 'lo']);
  assert.equal(after.routes.length, 1);
});

test('1.6 System V memory and POSIX queues of one container are invisible to others', async () => {
  const host = getHost();
  const [one, other] = await Promise.all(['ipc-a', 'ipc-b'].map((name) => startProbe(host, name)));
  assert.ok(one && other);
  using program = buildProbe();
  const onHost = (...args: string[]) =>
    execFileSync(program.program, args, { encoding: 'utf8' }).trim();
  const inOne = runInIpcOf(one.functionPid, program.program);
  const inOther = runInIpcOf(other.functionPid, program.program);
  const key = String(0x6861_0000 + process.pid);
  const queue = `/hatch-${process.pid}`;
  assert.equal(await one.run('shm-make', key), 'shm: found');
  assert.equal(inOne('mq-make', queue), 'mq: found');
  assert.equal(await one.run('shm-find', key), 'shm: found');
  assert.equal(inOne('mq-find', queue), 'mq: found');
  assert.equal(await other.run('shm-find', key), 'shm: No such file or directory');
  for (const find of [inOther, onHost]) {
    assert.equal(find('shm-find', key), 'shm: No such file or directory');
    assert.equal(find('mq-find', queue), 'mq: No such file or directory');
  }
  try {
    onHost('shm-make', key);
    onHost('mq-make', queue);
    assert.equal(await other.run('shm-find', key), 'shm: No such file or directory');
    assert.equal(inOther('mq-find', queue), 'mq: No such file or directory');
  } finally {
    onHost('shm-remove', key);
    onHost('mq-remove', queue);
  }
});

test('1.6 host name, domain name and root of control groups are its own', async () => {
  const host = getHost();
  const probes = await Promise.all(['uts-a', 'uts-b'].map((name) => startProbe(host, name)));
  const views = await Promise.all(probes.map((probe) => probe.ask<View>({ do: 'view' })));
  assert.deepEqual(
    views.map(({ hostname }) => hostname),
    probes.map(({ instanceId }) => instanceId),
  );
  for (const view of views) {
    assert.equal(view.domainName, '');
    const groups = view.cgroups.map((line) => line.split(':').slice(2).join(':'));
    assert.deepEqual([...new Set(groups)], ['/'], view.cgroups.join(' '));
  }
  // Names that change inside change nowhere else.
  const [one, other] = probes;
  assert.ok(one && other);
  const ownName = readFileSync('/proc/sys/kernel/hostname', 'utf8');
  enterOk(one.functionPid, ['--uts'], ['hostname', 'hatch-renamed']);
  enterOk(one.functionPid, ['--uts'], ['domainname', 'hatch.example']);
  const renamed = await one.ask<View>({ do: 'view' });
  assert.deepEqual([renamed.hostname, renamed.domainName], ['hatch-renamed', 'hatch.example']);
  const untouched = await other.ask<View>({ do: 'view' });
  assert.deepEqual([untouched.hostname, untouched.domainName], [other.instanceId, '']);
  assert.equal(readFileSync('/proc/sys/kernel/hostname', 'utf8'), ownName);
});

test('1 all seven namespaces are its own, and six belong to the host', async () => {
  const host = getHost();
  const probes = await Promise.all(['ns-a', 'ns-b'].map((name) => startProbe(host, name)));
  using program = buildProbe();
  const outside = [namespacesOf('self'), namespacesOf(host.pid)];
  const inside = probes.map(({ functionPid }) => namespacesOf(functionPid));
  for (const kind of Object.keys(outside[0] ?? {})) {
    const others = outside.map((namespaces) => namespaces[kind]);
    const own = inside.map((namespaces) => namespaces[kind]);
    assert.equal(new Set(own).size, 2, kind);
    assert.ok(!own.some((one) => others.includes(one)), kind);
  }
  for (const { initPid, functionPid } of probes) {
    // PID 1 and the function share them all.
    assert.deepEqual(namespacesOf(initPid), namespacesOf(functionPid));
    for (const kind of ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'uts']) {
      const owner = execFileSync(program.program, ['owner-of', `/proc/${functionPid}/ns/${kind}`]);
      assert.equal(owner.toString().trim(), namespacesOf('self')['user'], kind);
    }
  }
});
