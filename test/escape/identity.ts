/** Checks 1 to 12: whose world an instance is in. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { View } from '../functions/probe/handler.ts';
import {
  enter,
  isAlive,
  namespacesOf,
  processesOf,
  runInIpcOf,
  uidBaseOf,
} from '../support/containers.ts';
import { asUser, assertRefused, callsInside, outside, type Call, type Check } from './check.ts';

const functionUid = 1000;
/** CLONE_NEW* of <linux/sched.h>. */
const namespaceFlags = {
  time: 0x80,
  mnt: 0x2_0000,
  cgroup: 0x200_0000,
  uts: 0x400_0000,
  ipc: 0x800_0000,
  user: 0x1000_0000,
  pid: 0x2000_0000,
  net: 0x4000_0000,
} as const;
const SIGCHLD = 17;
/** No valid address: the kernel says EFAULT where it gets as far as to look. */
const nowhere = 1;

export const identityChecks: readonly Check[] = [
  {
    number: 1,
    what: "namespaces are neither the host's nor a sibling's",
    async run({ host, probe, sibling }) {
      const { namespaces } = await probe.ask<View>({ do: 'view' });
      const others = [namespacesOf(host.pid), namespacesOf('self')];
      others.push((await sibling.ask<View>({ do: 'view' })).namespaces);
      assert.equal(Object.keys(namespaces).length, 7);
      for (const [kind, inode] of Object.entries(namespaces))
        for (const other of others) assert.notEqual(inode, other[kind], kind);
      // What the test starts itself shares all of them, but for the mounts of the host process.
      assert.deepEqual(namespacesOf('self'), namespacesOf(process.ppid));
    },
  },
  {
    number: 2,
    what: 'user ids 0 to 65535 are a range of the host that begins at 65536 or above',
    async run({ probe }) {
      const base = uidBaseOf(probe.functionPid);
      assert.ok(base >= 65_536);
      for (const kind of ['uid', 'gid']) {
        const map = await probe.ask<string>({ do: 'read', path: `/proc/self/${kind}_map` });
        assert.deepEqual(map.trim().split(/\s+/).map(Number), [0, base, 65_536]);
        assert.match(readFileSync(`/proc/self/${kind}_map`, 'utf8'), /^\s*0\s+0\s+4294967295\s*$/);
      }
      for (const pid of [probe.initPid, probe.functionPid]) {
        const status = readFileSync(`/proc/${pid}/status`, 'utf8');
        const ids = Array.from({ length: 4 }, () => base + functionUid).join('\t');
        assert.ok(status.includes(`Uid:\t${ids}\n`) && status.includes(`Gid:\t${ids}\n`));
      }
    },
  },
  {
    number: 3,
    what: "/proc lists the instance's own processes only; PID 1 has no parent",
    async run({ host, probe }) {
      const { pids, pid } = await probe.ask<View>({ do: 'view' });
      const own = processesOf(host, probe.instanceId).map(({ nsPid }) => nsPid);
      assert.deepEqual(pids, own);
      assert.ok(pids.includes(1) && pids.includes(pid));
      const init = await probe.ask<string>({ do: 'read', path: '/proc/1/stat' });
      assert.equal(init.slice(init.lastIndexOf(')')).split(' ')[2], '0');
      assert.ok(readdirSync('/proc').filter((name) => /^\d+$/.test(name)).length > pids.length);
    },
  },
  {
    number: 4,
    what: 'kill(-1) and kill of a host pid reach nobody outside',
    async run({ start, sibling, host }) {
      const probe = await start();
      const uid = uidBaseOf(probe.functionPid) + functionUid;
      // Of the same user outside: only the pid namespace is between them.
      const canaries = [1, 2].map(() =>
        spawn('setpriv', [`--reuid=${uid}`, '--clear-groups', 'sleep', '600'], { stdio: 'ignore' }),
      );
      const [canary = 0, other = 0] = canaries.map(({ pid }) => pid ?? 0);
      try {
        const [to] = Object.values(await callsInside(probe, [['kill', canary, 9]]));
        assert.equal(to, 'ESRCH');
        // It ends the function itself, too.
        const killed = await host.call(probe.name, {
          do: 'run',
          command: ['/function/probe', 'calls'],
          input: 'native 62 -1 9 0 0 0 0\n'.replace('62', process.arch === 'arm64' ? '129' : '62'),
        });
        assert.equal(killed.error?.code, 'function.exited');
        for (const pid of [canary, other, sibling.functionPid, sibling.initPid, host.pid])
          assert.ok(isAlive(pid), String(pid));
        assert.equal(asUser(uid, ['kill', '-9', String(other)]).status, 0);
      } finally {
        for (const each of canaries) each.kill('SIGKILL');
      }
    },
  },
  {
    number: 5,
    what: 'no namespace can be joined, of PID 1, of its own, or by a leaked descriptor',
    async run(subject) {
      const { probe } = subject;
      const links = await probe.evaluate(() => {
        const { openSync, closeSync, readdirSync, readlinkSync } =
          process.getBuiltinModule('node:fs');
        const kinds = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'time', 'user', 'uts'];
        const opened = kinds.map((kind) => {
          try {
            closeSync(openSync(`/proc/1/ns/${kind}`, 'r'));
            return kind;
          } catch (error) {
            return (error as NodeJS.ErrnoException).code;
          }
        });
        const fds = readdirSync('/proc/self/fd').map((fd) => {
          try {
            return readlinkSync(`/proc/self/fd/${fd}`);
          } catch {
            return '';
          }
        });
        return { opened, leaked: fds.filter((link) => /^\w+:\[/.test(link)) };
      });
      assert.deepEqual([...new Set(links.opened)], ['EACCES']);
      const isNamespace = /^(cgroup|ipc|mnt|net|pid|time|user|uts):/;
      assert.deepEqual(
        links.leaked.filter((link) => isNamespace.test(link)),
        [],
      );
      await assertRefused(subject, [
        ['setns', 0, 0],
        ['setns', -1, namespaceFlags.mnt],
      ]);
      const joined = enter(probe.functionPid, ['--uts', '--ipc'], ['hostname']);
      assert.equal(joined.stdout.trim(), probe.instanceId);
    },
  },
  {
    number: 6,
    what: 'no namespace can be made, and with all rights inside neither',
    async run(subject) {
      const flags = Object.values(namespaceFlags);
      await assertRefused(subject, [
        ...flags.map((flag): Call => ['unshare', flag]),
        // A thread cannot have its own time: clone(2) does not know that flag.
        ...flags.filter((flag) => flag !== 0x80).map((flag): Call => ['clone', flag | SIGCHLD]),
      ]);
      await assertRefused(subject, [['clone3', nowhere, 88]], ['ENOSYS']);
      // Without seccomp, as root of the container: the user namespace allows none of any kind.
      const { functionPid } = subject.probe;
      for (const kind of ['user', 'mount', 'uts', 'ipc', 'net', 'pid', 'cgroup']) {
        const options = ['--user', '--mount', '--setuid', '0', '--setgid', '0'];
        const made = enter(functionPid, options, ['unshare', `--${kind}`, 'true']);
        assert.notEqual(made.status, 0, kind);
        assert.match(made.stderr, /No space left on device/, kind);
        assert.equal(outside(['unshare', `--${kind}`, 'true']).status, 0, kind);
      }
    },
  },
  {
    number: 7,
    what: 'the machine cannot be named, timed, rebooted, or given modules or another kernel',
    run: (subject) =>
      assertRefused(subject, [
        ['sethostname', nowhere, 4],
        ['setdomainname', nowhere, 4],
        ['settimeofday', nowhere, 0],
        ['clock_settime', 0, nowhere],
        ['adjtimex', nowhere],
        ['clock_adjtime', 0, nowhere],
        ['acct', nowhere],
        ['swapon', nowhere, 0],
        ['swapoff', nowhere],
        ['reboot', 0, 0, 0, 0],
        ['kexec_load', 0, 0, 0, 0xffff],
        ['kexec_file_load', -1, -1, 0, 0, 0xffff],
        ['init_module', nowhere, 8, nowhere],
        ['finit_module', -1, nowhere, 0],
        ['delete_module', nowhere, 0],
        ['quotactl', -1, nowhere, 0, 0],
      ]),
  },
  {
    number: 8,
    what: "a sibling's and the host's shared memory and queues do not exist",
    async run({ probe, sibling, program }) {
      const key = String(0x6861_0000 + randomBytes(2).readUInt16LE());
      const queue = `/hatch-${key}`;
      assert.equal(await sibling.run('shm-make', key), 'shm: found');
      assert.equal(await sibling.run('shm-find', key), 'shm: found');
      assert.equal(await probe.run('shm-find', key), 'shm: No such file or directory');
      const inSibling = runInIpcOf(sibling.functionPid, program);
      const inProbe = runInIpcOf(probe.functionPid, program);
      assert.equal(inSibling('mq-make', queue), 'mq: found');
      assert.equal(inSibling('mq-find', queue), 'mq: found');
      assert.equal(inProbe('mq-find', queue), 'mq: No such file or directory');
      assert.match(outside([program, 'shm-find', key]).stdout, /No such file/);
    },
  },
  {
    number: 9,
    what: 'an abstract socket of the host is not there',
    async run({ probe }) {
      const name = `\0hatch-${randomBytes(8).toString('hex')}`;
      const server = createServer((socket) => socket.on('error', () => undefined).end('host'));
      await once(server.listen(name), 'listening');
      try {
        const answer = (path: string) =>
          new Promise<string>((resolve) => {
            const socket = process.getBuiltinModule('node:net').connect({ path });
            socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
            socket.once('connect', () => resolve('connected'));
          });
        assert.equal(await probe.evaluate(answer, name), 'ECONNREFUSED');
        const client = connect({ path: name });
        await once(client, 'connect');
        client.destroy();
      } finally {
        server.close();
      }
    },
  },
  {
    number: 10,
    what: 'no keyring can be read, searched or added to',
    async run(subject) {
      await assertRefused(subject, [
        ['keyctl', 0, -3, 0],
        ['keyctl', 11, nowhere, 0, 0],
        ['add_key', nowhere, nowhere, 0, 0, -3],
        ['request_key', nowhere, nowhere, 0, 0],
      ]);
      for (const file of ['keys', 'key-users']) {
        assert.equal(await subject.probe.ask({ do: 'read', path: `/proc/${file}` }), '', file);
        assert.notEqual(readFileSync(`/proc/${file}`, 'utf8'), '', file);
      }
      // Each process of a container joined a ring that nobody else is in.
      const rings = () => readFileSync('/proc/keys', 'utf8').match(/ keyring +_ses/g)?.length ?? 0;
      const before = rings();
      await subject.start();
      await subject.start();
      assert.ok(rings() >= before + 2, `${before} session keyrings before, ${rings()} after`);
    },
  },
  {
    number: 11,
    what: 'control groups have their root at the instance, and no path leads above',
    async run({ probe }) {
      const { cgroups, mounts } = await probe.ask<View>({ do: 'view' });
      const groups = cgroups.map((line) => line.split(':').slice(2).join(':'));
      assert.deepEqual([...new Set(groups)], ['/']);
      assert.ok(!mounts.some(({ type }) => type.startsWith('cgroup')));
      assert.match(readFileSync(`/proc/${probe.functionPid}/cgroup`, 'utf8'), /hatch/);
    },
  },
  {
    number: 12,
    what: 'no tracing, no memory of others, no BPF, io_uring, userfaultfd or file handles',
    async run(subject) {
      await assertRefused(subject, [
        ['userfaultfd', 0x7fff_ffff],
        ['bpf', 99, nowhere, 8],
        ['perf_event_open', nowhere, 0, -1, -1, 0],
        ['ptrace', 16, 999_999, 0, 0],
        ['process_vm_readv', 999_999, nowhere, 1, nowhere, 1, 0],
        ['process_vm_writev', 999_999, nowhere, 1, nowhere, 1, 0],
        ['pidfd_getfd', -1, 0, 0],
        ['kcmp', 999_999, 999_999, 0, 0, 0],
        ['open_by_handle_at', -1, nowhere, 0],
        ['name_to_handle_at', -1, nowhere, nowhere, nowhere, 0],
      ]);
      await assertRefused(
        subject,
        [
          ['io_uring_setup', 1, nowhere],
          ['io_uring_enter', -1, 0, 0, 0, 0],
          ['io_uring_register', -1, 0, 0, 0],
        ],
        ['EPERM', 'ENOSYS'],
      );
    },
  },
];
