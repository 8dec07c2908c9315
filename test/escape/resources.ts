/** Checks 55 to 63: using up the machine. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunResult, View } from '../functions/probe/handler.ts';
import { cgroupOf, cpuUsageUs, enter, isAlive, memoryInUse } from '../support/containers.ts';
import { waitFor } from '../support/host-processes.ts';
import { slowness } from '../support/slowness.ts';
import { outside, type Check } from './check.ts';
import {
  assertDiskLimits,
  assertFrozenEnds,
  assertGroupClosed,
  assertLimitedFromTheFirst,
  take,
} from './limits.ts';

const MiB = 2 ** 20;
const containerRoot = ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];

export const resourceChecks: readonly Check[] = [
  {
    number: 55,
    what: 'a fork bomb is told EAGAIN at its limit, and is gone with its instance',
    async run({ start, sibling, host }) {
      const probe = await start({ pidsMax: 40 });
      const bomb = JSON.parse(await probe.run('fork-bomb', '1')) as { forks: number; told: string };
      assert.equal(bomb.told, 'EAGAIN');
      assert.ok(bomb.forks > 0);
      // While another one goes on, the host answers, and starts instances.
      const bombing = probe.run('fork-bomb', '2');
      await sleep(200);
      const beganMs = performance.now();
      await Promise.all([sibling.ask({ do: 'count' }), host.status()]);
      assert.ok(performance.now() - beganMs < 1000 * slowness, 'the host is slow to answer');
      await start();
      await bombing;
      // PID 1 reaps what was left to it, on the booted path by and by.
      const isOver = async () => (await probe.ask<View>({ do: 'view' })).pids.length === 2;
      await waitFor('nothing of it is left', isOver);
      const lasting = host.call(probe.name, {
        do: 'run',
        command: ['/function/probe', 'fork-bomb', '60'],
      });
      const group = cgroupOf(host, probe.instanceId, 'pids');
      const count = () => readFileSync(`${group}/pids.current`, 'utf8').trim();
      await waitFor('a bomb of forty', () => count() === '40');
      const killedMs = performance.now();
      process.kill(probe.functionPid, 'SIGKILL');
      await waitFor('its group is gone', () => !existsSync(group));
      assert.ok(performance.now() - killedMs < 1000 * slowness, 'the end of it took a second');
      assert.equal((await lasting).error?.code, 'function.exited');
    },
  },
  {
    number: 56,
    what: 'memory of any kind is charged to the instance, and ends it alone',
    async run({ start, sibling, host }) {
      const probe = await start({ memoryMb: 96 });
      const before = memoryInUse(host, probe.instanceId);
      const fill = ['/tmp', '/dev/shm', '/home/function']
        .map((path) => `head -c 8m /dev/zero >${path}/fill`)
        .join('\n');
      await probe.ask({ do: 'run', command: ['sh', '-c', fill] });
      const grown = memoryInUse(host, probe.instanceId) - before;
      assert.ok(grown > 22 * MiB, `${grown} bytes`);
      // What the kernel keeps for it; BPF maps it can't make at all.
      const ofKernel = [
        ['pipes', 128, 8],
        ['sockets', 64, 8],
        ['events', 8, 4],
      ] as const;
      for (const [kind, count, mebibytes] of ofKernel) {
        const used = memoryInUse(host, probe.instanceId);
        const { taken } = await take(probe, kind, count);
        assert.equal(taken, count, kind);
        const charged = memoryInUse(host, probe.instanceId) - used;
        assert.ok(charged > 0.8 * mebibytes * MiB, `${kind}: ${charged} bytes`);
      }
      const reply = await host.call(probe.name, { do: 'hold', mebibytes: 256 });
      assert.equal(reply.error?.code, 'function.oom');
      assert.equal(reply.error.details['scope'], 'cgroup');
      for (const pid of [sibling.functionPid, sibling.initPid, host.pid]) assert.ok(isAlive(pid));
      const hungry = await start({ memoryMb: 256 });
      assert.equal(await hungry.ask({ do: 'hold', mebibytes: 100 }), 1);
    },
  },
  {
    number: 57,
    what: 'out of memory in a child is told as such, and never leaves a headless container',
    async run({ start, host }) {
      // So much that the child, and not the function beside it, is what the kernel chooses.
      const probe = await start({ memoryMb: 384 });
      assert.equal(await probe.ask({ do: 'count' }), 1);
      const command = ['/function/probe', 'take-memory', '512'];
      // The policy is the kernel's own (no memory.oom.group): the child ends, its parent is told.
      assert.equal((await probe.ask<RunResult>({ do: 'run', command })).signal, 'SIGKILL');
      assert.equal(await probe.ask({ do: 'count' }), 2);
      assert.ok([probe.initPid, probe.functionPid].every(isAlive));
      // The function itself is as much as the instance: nothing outlives it, the next one serves.
      const reply = await host.call(probe.name, { do: 'hold', mebibytes: 512 });
      assert.equal(reply.error?.code, 'function.oom');
      await waitFor('its end', () => ![probe.initPid, probe.functionPid].some(isAlive));
      assert.equal(await probe.ask({ do: 'count' }), 1);
    },
  },
  {
    number: 58,
    what: 'half a processor is half a processor, with one thread and with several',
    async run({ start, host }) {
      const probe = await start({ cpu: 0.5 });
      const forMs = 2000 * slowness;
      const spin = `/function/probe spin ${forMs / 1000} &`;
      for (const command of [[], ['sh', '-c', `${spin} ${spin} ${spin} wait`]]) {
        const [usedUs, startMs] = [cpuUsageUs(host, probe.instanceId), performance.now()];
        if (command.length === 0) await probe.ask({ do: 'spin', forMs });
        else await probe.ask({ do: 'run', command }, { timeoutMs: 4 * forMs });
        const share =
          (cpuUsageUs(host, probe.instanceId) - usedUs) / 1000 / (performance.now() - startMs);
        // A busy machine gives less; more than the quota and what a period adds it never does.
        assert.ok(share > 0.2 && share < 0.6, String(share));
      }
    },
  },
  {
    number: 59,
    what: 'bytes and files of its writable places are bounded',
    async run({ start, host }) {
      await assertDiskLimits({ start, host });
      const probe = await start({ memoryMb: 256 });
      // The root, too: its writable layer is memory, which memoryMb bounds before its own size.
      const root = 'head -c 400m /dev/zero >/home/function/fill; rm -f /home/function/fill';
      const full = await host.call(probe.name, { do: 'run', command: ['sh', '-c', root] });
      if (full.error === undefined) assert.notEqual(full.json<RunResult>().stderr, '');
      const fill = 'head -c 80m /dev/zero >/tmp/fill';
      const bytes = await probe.ask<RunResult>({ do: 'run', command: ['sh', '-c', fill] });
      assert.notEqual(bytes.status, 0);
      assert.ok(
        (await probe.ask<{ size: number }>({ do: 'stat', path: '/tmp/fill' })).size <= 64 * MiB,
      );
      const many = 'i=0; while [ $i -lt 17000 ] && : >/dev/shm/$i; do i=$((i+1)); done; echo $i';
      const files = await probe.ask<RunResult>({ do: 'run', command: ['sh', '-c', many] });
      assert.ok(Number(files.stdout) < 16_400, files.stdout);
      const free = outside([
        'sh',
        '-c',
        `mount -t tmpfs none /mnt && cd /mnt && ${fill.replace('/tmp/', '')}`,
      ]);
      assert.equal(free.status, 0, free.stderr);
    },
  },
  {
    number: 60,
    what: 'who uses up its descriptors and watches leaves those of others alone',
    async run({ start, sibling }) {
      const probe = await start();
      const openAll = () => {
        const { openSync, closeSync } = process.getBuiltinModule('node:fs');
        const fds: number[] = [];
        try {
          for (;;) fds.push(openSync('/dev/null', 'r'));
        } catch (error) {
          for (const fd of fds.splice(0)) closeSync(fd);
          return (error as NodeJS.ErrnoException).code;
        }
      };
      assert.equal(await probe.evaluate(openAll), 'EMFILE');
      // The kernel counts these by user, and by the owner of a user namespace: were that root of
      // the host, one function could use up everybody's. Keys it cannot make (10), and connections
      // are tracked by network namespace.
      assert.equal((await take(probe, 'inotify', 5000)).told, 'EMFILE');
      for (const other of [sibling, await start()]) {
        assert.equal((await take(other, 'inotify', 8)).taken, 8);
        const watches = () => {
          const { watch } = process.getBuiltinModule('node:fs');
          watch('/tmp', () => undefined).close();
          return true;
        };
        assert.ok(await other.evaluate(watches));
      }
      const ofHost = spawnSync(process.execPath, ['-e', 'fs.watch("/tmp").close()']);
      assert.equal(ofHost.status, 0, String(ofHost.stderr));
    },
  },
  {
    number: 61,
    what: 'its control group cannot be seen, changed or left (CVE-2022-0492)',
    async run({ probe, host, program }) {
      const { mounts } = await probe.ask<View>({ do: 'view' });
      assert.ok(!mounts.some(({ type }) => type.startsWith('cgroup')));
      for (const type of ['cgroup', 'cgroup2']) {
        const command = ['mount', '-t', type, 'none', '/mnt'];
        const asRoot = enter(probe.functionPid, ['--cgroup', ...containerRoot], command);
        assert.notEqual(asRoot.status, 0, type);
      }
      await assertGroupClosed({ probe, host, program });
      const path = '/sys/fs/cgroup/release_agent';
      await assert.rejects(probe.ask({ do: 'write', path, text: '/x' }), /ENOENT|EACCES|EROFS/);
      assert.equal(outside(['sh', '-c', 'mount -t cgroup2 none /mnt']).status, 0);
      assert.ok(existsSync(cgroupOf(host, probe.instanceId, 'memory')));
    },
  },
  {
    number: 62,
    what: 'daemons of an instance end with it, whatever they detached from',
    async run({ start, host }) {
      const probe = await start();
      const daemon = [
        'sh',
        '-c',
        '(setsid sh -c "trap : TERM HUP; exec sleep 600" &) >/dev/null 2>&1 </dev/null &',
      ];
      await probe.ask({ do: 'run', command: daemon });
      const group = cgroupOf(host, probe.instanceId, 'pids');
      const pids = readFileSync(`${group}/cgroup.procs`, 'utf8').trim().split('\n').map(Number);
      assert.ok(pids.length >= 3, pids.join(' '));
      process.kill(probe.functionPid, 'SIGKILL');
      await waitFor('all of them have ended', () => !pids.some(isAlive));
      await assertFrozenEnds({ start, host });
    },
  },
  {
    number: 63,
    what: 'there is no moment without limits: both processes are in the group from the start',
    async run({ probe, host }) {
      await assertLimitedFromTheFirst(host);
      const controllers = ['memory', 'pids', 'cpu'];
      for (const controller of controllers) {
        const group = cgroupOf(host, probe.instanceId, controller);
        const inside = readFileSync(`${group}/cgroup.procs`, 'utf8').trim().split('\n').map(Number);
        for (const pid of [probe.initPid, probe.functionPid]) assert.ok(inside.includes(pid));
      }
      const [pid] = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
      assert.doesNotMatch(
        readFileSync(`/proc/${pid}/cgroup`, 'utf8'),
        new RegExp(probe.instanceId),
      );
    },
  },
];
