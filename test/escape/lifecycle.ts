/** Checks 70 to 77: what the engine does at the edges of an instance's life. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import { controlApi } from '../../host/dispatch/control-api.ts';
import type { RunResult, View } from '../functions/probe/handler.ts';
import { enter, isAlive, processesOf, type Probe } from '../support/containers.ts';
import { waitFor } from '../support/host-processes.ts';
import type { Check, Subject } from './check.ts';
import { deployLayer } from './hostile-layer.ts';

/** Descriptors of the processes of an instance: none of them leads to a file of the host. */
const ownKinds = ['eventpoll', 'eventfd', 'signalfd', 'pidfd', 'io_uring', 'inotify'];
const documented = new RegExp(
  `^((/dev)?/null|(socket|pipe):\\[\\d+\\]|anon_inode:\\[?(${ownKinds.join('|')})\\]?)$`,
);

const refusedDeploy = { code: 'deploy.invalid' };

export const lifecycleChecks: readonly Check[] = [
  {
    number: 70,
    what: 'names are checked, a removed function is gone, and removes nothing else',
    async run({ host, start, sibling }) {
      for (const name of ['', '../x', 'a/b', 'A', 'x'.repeat(64), '-x', 'a\0b'])
        await assert.rejects(host.deploy('test/functions/probe', { name }), refusedDeploy);
      const probe = await start();
      await host.client.ask('rm', { name: probe.name });
      assert.equal(
        (await host.call(probe.name, { do: 'count' })).error?.code,
        'function.not_found',
      );
      await waitFor('the removed instance ends', () => !isAlive(probe.functionPid));
      await assert.rejects(host.client.ask('rm', { name: probe.name }), {
        code: 'function.not_found',
      });
      assert.ok(isAlive(sibling.functionPid));
    },
  },
  {
    number: 71,
    what: 'no program of the host runs at an event of an instance',
    cannotApply: 'there are no hooks: the manifest refuses the word',
    run: async ({ host }) => {
      const hooks = { prestart: [{ path: '/bin/true' }] };
      const deploying = host.deploy('test/functions/probe', { name: 'hooks', hooks });
      await assert.rejects(deploying, refusedDeploy);
    },
  },
  {
    number: 72,
    what: 'wrong limits, users and programs are refused, by name',
    async run({ host }) {
      const wrong = {
        pidsMax: -1,
        memoryMb: 1e9,
        cpu: 0,
        cpuWeight: 0,
        timeoutMs: -5,
        uid: 0,
        user: 'root',
        privileged: true,
        capabilities: ['CAP_SYS_ADMIN'],
        runtime: 'node0',
        env: { 'A=B': 'c' },
        entry: '/etc/passwd',
      };
      for (const [key, value] of Object.entries(wrong)) {
        const deploying = host.deploy('test/functions/probe', { name: 'wrong', [key]: value });
        await assert.rejects(deploying, (error: { code: string; message: string }) => {
          assert.equal(error.code, 'deploy.invalid', key);
          assert.ok(error.message.includes(key), error.message);
          return true;
        });
      }
      await host.deploy('test/functions/probe', { name: 'right', pidsMax: 16 });
    },
  },
  {
    number: 73,
    what: 'standard input is its own null device, which keeps its owner',
    async run({ probe, path }) {
      const input = readlinkSync(`/proc/${probe.functionPid}/fd/0`);
      assert.match(input, path === 'booted' ? /null$/ : /^\/dev\/null$/);
      const before = statSync('/dev/null');
      const { uid, mode } = await probe.ask<{ uid: number; mode: number }>({
        do: 'stat',
        path: '/dev/null',
      });
      assert.deepEqual([uid, mode & 0o7777], [65_534, 0o666]);
      const chown = enter(
        probe.functionPid,
        ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'],
        ['chown', '1000', '/dev/null'],
      );
      assert.notEqual(chown.status, 0);
      const after = statSync('/dev/null');
      assert.deepEqual([after.uid, after.mode], [before.uid, before.mode]);
    },
  },
  {
    number: 74,
    what: 'devices, links, file systems and their options are the usual few',
    async run({ probe }) {
      const { mounts } = await probe.ask<View>({ do: 'view' });
      const options = Object.fromEntries(mounts.map(({ point, options: all }) => [point, all]));
      const expected: Record<string, string[]> = {
        '/': ['rw', 'nosuid', 'nodev'],
        '/proc': ['ro', 'nosuid', 'nodev', 'noexec'],
        '/dev': ['ro', 'nosuid', 'noexec'],
        '/dev/shm': ['rw', 'nosuid', 'nodev'],
        '/tmp': ['rw', 'nosuid', 'nodev'],
      };
      const points = Object.keys(options).filter((point) => !point.startsWith('/proc/'));
      assert.deepEqual(points.toSorted(), Object.keys(expected).toSorted());
      for (const [point, wanted] of Object.entries(expected))
        for (const option of wanted) assert.ok(options[point]?.includes(option), point + option);
      for (const [point, all] of Object.entries(options))
        if (point.startsWith('/proc/')) assert.ok(all.includes('ro'), point);
      const { stdout } = await probe.ask<RunResult>({ do: 'run', command: ['ls', '/dev'] });
      const names = 'fd full null random shm stderr stdin stdout tty urandom zero';
      assert.deepEqual(stdout.trim().split('\n').toSorted(), names.split(' '));
      await assertDevices(probe);
      await assertPlacesInOrder(probe);
      // The host has more of both.
      assert.match(readFileSync('/proc/self/mounts', 'utf8'), / (sysfs|devpts|cgroup2?) /);
    },
  },
  {
    number: 75,
    what: 'no process enters an instance that is paused, or with rights it has not',
    cannotApply: 'nothing is executed in an instance from outside: control knows no such request',
    run: async ({ host, probe }) => {
      for (const verb of ['exec', 'enter', 'attach', 'run']) {
        assert.ok(!Object.hasOwn(controlApi, verb));
        await assert.rejects(host.connection.request(`hatch.ctl.${verb}`, '{}', { timeout: 500 }));
      }
      // What it executes itself is given no descriptor, and it holds none but the documented.
      const command = ['sh', '-c', 'ls /proc/self/fd'];
      const { stdout } = await probe.ask<RunResult>({ do: 'run', command });
      // The last one is of the directory that is listed.
      assert.equal(stdout.trim(), '0\n1\n2\n3');
      for (const pid of [probe.initPid, probe.functionPid]) {
        const links = readdirSync(`/proc/${pid}/fd`).map((fd) =>
          readlinkSync(`/proc/${pid}/fd/${fd}`),
        );
        const other = links.filter((link) => !documented.test(link));
        assert.deepEqual(other, [], String(pid));
      }
    },
  },
  {
    number: 76,
    what: 'owners, links, hidden files and opaque directories of a layer are as it says',
    async run({ host }) {
      await deployLayer(
        host,
        'layer-whiteout',
        [
          { name: 'etc/.wh.passwd', text: '' },
          { name: 'opt/', type: 'directory' },
          { name: 'opt/.wh..wh..opq', text: '' },
          { name: 'opt/one', text: 'linked', uid: 1000, gid: 1000 },
          { name: 'opt/two', type: 'link', linkname: 'opt/one' },
        ],
        {
          handler: `const fs = require('node:fs');
        exports.handler = () => ({
          hidden: fs.existsSync('/etc/passwd'),
          kept: fs.existsSync('/etc/group'),
          opt: fs.readdirSync('/opt'),
          links: fs.statSync('/opt/two').nlink,
          uid: fs.statSync('/opt/one').uid,
        });`,
        },
      );
      assert.deepEqual((await host.call('layer-whiteout')).json(), {
        hidden: false,
        kept: true,
        opt: ['one', 'two'],
        links: 2,
        uid: 1000,
      });
    },
  },
  {
    number: 77,
    what: 'how an instance ended is told, and a process id used again is nobody it knew',
    async run(subject) {
      for (const [how, expected] of [
        ['process.exit(7)', { exitCode: 7 }],
        ["process.kill(process.pid, 'SIGKILL')", { signal: 9 }],
      ] as const) {
        const probe = await subject.start();
        const source = `() => { ${how}; return new Promise(() => setInterval(() => 0, 1e6)); }`;
        const reply = await subject.host.call(probe.name, { do: 'evaluate', source });
        assert.equal(reply.error?.code, 'function.exited');
        for (const [key, value] of Object.entries(expected))
          assert.equal(reply.error.details[key], value, JSON.stringify(reply.error.details));
      }
      assertHeldByDescriptor(subject);
    },
  },
];

/** Those of the usual numbers only; the links lead to descriptors of who follows them. */
async function assertDevices(probe: Probe): Promise<void> {
  const names = ['full', 'null', 'random', 'tty', 'urandom', 'zero'];
  const format = ['stat', '-c', '%n %F %t:%T %a', ...names.map((name) => `/dev/${name}`)];
  const devices = await probe.ask<RunResult>({ do: 'run', command: format });
  const numbers = ['1:7', '1:3', '1:8', '5:0', '1:9', '1:5'];
  const expected = names.map(
    (name, at) => `/dev/${name} character special file ${numbers[at]} 666`,
  );
  assert.deepEqual(devices.stdout.trim().split('\n'), expected, devices.stderr);
  const links = await probe.evaluate(() => {
    const { readlinkSync: read } = process.getBuiltinModule('node:fs');
    return ['fd', 'stdin', 'stdout', 'stderr'].map((name) => read(`/dev/${name}`));
  });
  assert.deepEqual(
    links,
    ['fd', 'fd/0', 'fd/1', 'fd/2'].map((tail) => `/proc/self/${tail}`),
  );
}

/** No mount lies under another one, none follows the host's, and what is read-only is all over. */
async function assertPlacesInOrder(probe: Probe): Promise<void> {
  const text = await probe.ask<string>({ do: 'read', path: '/proc/self/mountinfo' });
  const mounts = text
    .trim()
    .split('\n')
    .map((line) => line.split(' '))
    .map(([id = '', parent = '', , , point = '', , ...tags]) => ({ id, parent, point, tags }));
  for (const { parent, point, tags } of mounts) {
    assert.equal(tags[0], '-', `${point} propagates: ${tags[0]}`);
    const below = mounts.find(({ id }) => id === parent)?.point;
    if (point !== '/') assert.ok(below !== undefined && point.startsWith(below), point);
  }
  for (const path of ['/tmp', '/dev/shm']) {
    const { uid, mode } = await probe.ask<{ uid: number; mode: number }>({ do: 'stat', path });
    // Of the host's root, whom nobody inside is.
    assert.deepEqual([uid, (mode & 0o7777).toString(8)], [65_534, '1777'], path);
  }
  for (const path of ['/proc/sys/kernel/hostname', '/dev/x', '/proc/x'])
    await assert.rejects(probe.ask({ do: 'write', path, text: 'x' }), /EROFS|EACCES|EPERM|ENOENT/);
}

/** The host holds PID 1 of each instance by a descriptor of the process, not by its number. */
function assertHeldByDescriptor({ host, probe }: Subject): void {
  const [init] = processesOf(host, probe.instanceId);
  const script = `cat /proc/${host.pid}/fdinfo/* 2>/dev/null | grep '^Pid:'`;
  const held = enter(host.pid, ['--mount'], ['sh', '-c', script]).stdout;
  assert.match(held, new RegExp(`^Pid:\\t${init?.hostPid}$`, 'm'));
}
