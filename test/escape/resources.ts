/** Checks 55 to 63: using up the machine. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunResult, View } from '../functions/probe/handler.ts';
import { cgroupOf, cpuUsageUs, enter, isAlive, memoryInUse } from '../support/containers.ts';
import { waitFor } from '../support/host-processes.ts';
import { slowness } from '../support/slowness.ts';
import { outside, type Check } from './check.ts';

const MiB = 2 ** 20;
const containerRoot = ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];

export const resourceChecks: readonly Check[] = [
  {
    number: 55,
    what: 'a fork bomb is told EAGAIN at its limit, and is gone with its instance',
    async run({ start, sibling }) {
      const probe = await start({ pidsMax: 40 });
      const bomb = JSON.parse(await probe.run('fork-bomb', '1')) as { forks: number; told: string };
      assert.equal(bomb.told, 'EAGAIN');
      assert.ok(bomb.forks > 0);
      assert.equal((await sibling.ask<View>({ do: 'view' })).pid > 0, true);
      // PID 1 reaps what was left to it, on the booted path by and by.
      const isOver = async () => (await probe.ask<View>({ do: 'view' })).pids.length === 2;
      await waitFor('nothing of it is left', isOver);
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
      const probe = await start({ memoryMb: 96 });
      const reply = await host.call(probe.name, {
        do: 'run',
        command: ['/function/probe', 'take-memory', '256'],
      });
      // The child ends, or with it the instance: as the kernel chooses, but told in either case.
      if (reply.error === undefined) assert.equal(reply.json<RunResult>().signal, 'SIGKILL');
      else assert.equal(reply.error.code, 'function.oom');
      const next = await host.call(probe.name, { do: 'count' });
      assert.equal(next.json(), 1);
      const alive = [probe.initPid, probe.functionPid].map(isAlive);
      assert.equal(alive[0], alive[1]);
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
    async run({ start }) {
      const probe = await start({ memoryMb: 256 });
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
      const exhaust = () => {
        const { openSync, watch } = process.getBuiltinModule('node:fs');
        const attempt = (act: () => unknown) => {
          for (let count = 0; count < 5000; count++)
            try {
              act();
            } catch (error) {
              return (error as NodeJS.ErrnoException).code;
            }
          return 'unbounded';
        };
        // Watches of one directory are one: each needs another.
        const { mkdirSync } = process.getBuiltinModule('node:fs');
        let made = 0;
        const watched = attempt(() => {
          mkdirSync(`/tmp/w${(made += 1)}`);
          if (made > 200) throw Object.assign(new Error('enough'), { code: 'enough' });
          watch(`/tmp/w${made}`, () => undefined).unref();
        });
        return { watched, descriptors: attempt(() => openSync('/dev/null', 'r')) };
      };
      const { descriptors } = await probe.evaluate(exhaust);
      assert.equal(descriptors, 'EMFILE');
      const harmless = () => {
        const { openSync, closeSync, watch } = process.getBuiltinModule('node:fs');
        watch('/tmp', () => undefined).close();
        closeSync(openSync('/dev/null', 'r'));
        return 'fine';
      };
      assert.equal(await sibling.evaluate(harmless), 'fine');
      assert.equal(await (await start()).evaluate(harmless), 'fine');
    },
  },
  {
    number: 61,
    what: 'its control group cannot be seen, changed or left (CVE-2022-0492)',
    async run({ probe, host }) {
      const { mounts } = await probe.ask<View>({ do: 'view' });
      assert.ok(!mounts.some(({ type }) => type.startsWith('cgroup')));
      for (const type of ['cgroup', 'cgroup2']) {
        const command = ['mount', '-t', type, 'none', '/mnt'];
        const asRoot = enter(probe.functionPid, ['--cgroup', ...containerRoot], command);
        assert.notEqual(asRoot.status, 0, type);
      }
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
      const deadline = performance.now() + 5000 * slowness;
      while (pids.some(isAlive) && performance.now() < deadline) await sleep(10);
      assert.deepEqual(pids.filter(isAlive), []);
    },
  },
  {
    number: 63,
    what: 'there is no moment without limits: both processes are in the group from the start',
    async run({ probe, host }) {
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
