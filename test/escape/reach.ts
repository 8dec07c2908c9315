/** Checks 82 to 89: what an instance could do to the host, and to PID 1, by what it has of them. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import type { RunResult } from '../functions/probe/handler.ts';
import { isAlive } from '../support/containers.ts';
import { waitFor } from '../support/host-processes.ts';
import { slowness } from '../support/slowness.ts';
import { outside, type Check } from './check.ts';
import { take } from './limits.ts';

const lingerSeconds = 8;
/** Of PID 1, besides what check 34 has: its memory, what it does, what it has open. */
const ofPidOne = {
  read: wordsIn(
    'auxv io stack syscall personality pagemap smaps smaps_rollup numa_maps mountstats',
    'timerslack_ns task/1/mem task/1/environ task/1/maps',
  ),
  list: wordsIn('fdinfo map_files task/1/fd'),
  write: wordsIn(
    'attr/current attr/exec clear_refs comm coredump_filter oom_score_adj sched timerslack_ns',
    'mem task/1/comm setgroups uid_map',
  ),
};
/** All else in /proc is covered: these tell of the instance, or what programs have to know. */
const shownInProc = new Set(
  wordsIn(
    'self thread-self net mounts sys sysvipc locks',
    'cpuinfo meminfo stat vmstat loadavg uptime version filesystems',
    // The same on every machine with this kernel and architecture.
    'cgroups consoles crypto devices dma execdomains fb misc',
  ),
);

export const reachChecks: readonly Check[] = [
  {
    number: 82,
    what: 'no descriptor can be passed to the host, which would have to close it',
    async run({ start, sibling, host, program }) {
      const probe = await start();
      const outcomes = await probe.evaluate((seconds) => {
        const { readdirSync: list, readlinkSync } = process.getBuiltinModule('node:fs');
        const { spawnSync } = process.getBuiltinModule('node:child_process');
        const outcomeOf = (fd: number): string => {
          const result = spawnSync('/function/probe', ['pass-lingering', '3', String(seconds)], {
            encoding: 'utf8',
            stdio: ['ignore', 'pipe', 'pipe', fd],
          });
          return result.stdout.trim() || `${result.stderr} ${result.error?.message}`;
        };
        return list('/proc/self/fd').flatMap((fd) => {
          try {
            return /^(socket|pipe):/.test(readlinkSync(`/proc/self/fd/${fd}`))
              ? [outcomeOf(Number(fd))]
              : [];
          } catch {
            return [];
          }
        });
      }, lingerSeconds);
      // By the socket that its calls come by, and by the pipes that answers and output go by.
      assert.deepEqual([...new Set(outcomes)].toSorted(), ['ENOTSOCK', 'EPIPE']);
      const beganMs = performance.now();
      await Promise.all([host.status(), sibling.ask({ do: 'count' })]);
      assert.ok(performance.now() - beganMs < Math.min(slowness, 4) * 1000, 'the host was held');
      const receive = `ip link set lo up && ${program} receive-lingering 1`;
      assert.ok(Number(outside(['sh', '-c', receive]).stdout) >= 900);
    },
  },
  {
    number: 83,
    what: 'PID 1 can be neither ended nor stopped, and squeezed it still ends with the host',
    async run({ start, host }) {
      const probe = await start();
      const stateOf = (pid: number) => /^State:\t(\w)/m.exec(read(`/proc/${pid}/status`))?.[1];
      const child = ['sleep', '600'];
      const own = await probe.ask<number>({ do: 'start', command: child });
      for (const signal of ['SIGSTOP', 'SIGKILL', 'SIGCHLD', 'SIGCONT'])
        assert.ok(await probe.ask({ do: 'kill', pid: 1, signal }), signal);
      await probe.ask({ do: 'kill', pid: own, signal: 'SIGSTOP' });
      const ownStatus = () => probe.ask<string>({ do: 'read', path: `/proc/${own}/status` });
      await waitFor('its child has stopped', async () => /^State:\tT/m.test(await ownStatus()));
      assert.notEqual(stateOf(probe.initPid), 'T');
      // Limits and priority of a process of the same user are anybody's.
      assert.ok(Number(await probe.run('squeeze', '1')) > 0);
      assert.equal(await probe.ask({ do: 'count' }), 1);
      await host.client.ask('rm', { name: probe.name });
      await waitFor('its end', () => ![probe.initPid, probe.functionPid].some(isAlive));
    },
  },
  {
    number: 84,
    what: 'what PID 1 does, and what it has open, is neither shown nor changed',
    async run({ probe }) {
      const codes = await probe.evaluate(({ read: readable, list, write }) => {
        const fs = process.getBuiltinModule('node:fs');
        const codeOf = (act: () => unknown): string => {
          try {
            act();
            return 'done';
          } catch (error) {
            return (error as NodeJS.ErrnoException).code ?? '';
          }
        };
        const path = (name: string) => `/proc/1/${name}`;
        return [
          ...readable.map((name) => [name, codeOf(() => fs.readFileSync(path(name)))]),
          ...list.map((name) => [name, codeOf(() => fs.readdirSync(path(name)))]),
          ...write.map((name) => [name, codeOf(() => fs.writeFileSync(path(name), '0'))]),
          ['exe', codeOf(() => fs.readlinkSync(path('exe')))],
        ];
      }, ofPidOne);
      const refused = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOENT']);
      assert.deepEqual(
        codes.filter(([, code = '']) => !refused.has(code)),
        [],
      );
      const there = ofPidOne.read.filter((name) => isReadable(`/proc/${probe.initPid}/${name}`));
      assert.ok(there.length >= 10, there.join(' '));
    },
  },
  {
    number: 85,
    what: '/proc shows nothing that is not known to be harmless',
    async run({ probe }) {
      const find = () => {
        const {
          readdirSync: list,
          readFileSync: load,
          statSync,
        } = process.getBuiltinModule('node:fs');
        return list('/proc').filter((name) => {
          try {
            if (/^\d+$/.test(name)) return false;
            const path = `/proc/${name}`;
            return (statSync(path).isDirectory() ? list(path) : load(path)).length > 0;
          } catch {
            return false;
          }
        });
      };
      const shown = await probe.evaluate(find);
      assert.deepEqual(
        shown.filter((name) => !shownInProc.has(name)),
        [],
      );
      // What Node.js and libuv read is there.
      for (const name of ['cpuinfo', 'meminfo', 'stat', 'self']) assert.ok(shown.includes(name));
      for (const name of ['bus', 'diskstats', 'softirqs']) assert.ok(existsSync(`/proc/${name}`));
    },
  },
  {
    number: 86,
    what: "a sibling's abstract socket is not there",
    async run({ probe, sibling }) {
      const name = `\0hatch-${randomBytes(8).toString('hex')}`;
      const connect = (path: string) =>
        new Promise<string>((resolve) => {
          const socket = process.getBuiltinModule('node:net').connect({ path });
          socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
          socket.once('connect', () => {
            socket.destroy();
            resolve('connected');
          });
        });
      await sibling.evaluate(
        (path) =>
          new Promise<boolean>((resolve) => {
            const { createServer } = process.getBuiltinModule('node:net');
            const server = createServer((socket) => socket.on('error', () => undefined).end());
            server.unref().listen(path, () => resolve(true));
          }),
        name,
      );
      assert.equal(await probe.evaluate(connect, name), 'ECONNREFUSED');
      assert.equal(await sibling.evaluate(connect, name), 'connected');
    },
  },
  {
    number: 87,
    what: 'threads count as processes do',
    async run({ start, program }) {
      const probe = await start({ pidsMax: 40 });
      const bomb = JSON.parse(await probe.run('thread-bomb', '200')) as BombResult;
      assert.equal(bomb.told, 'EAGAIN');
      assert.ok(bomb.made > 0 && bomb.made < 40, String(bomb.made));
      const free = outside([program, 'thread-bomb', '200']).stdout;
      assert.deepEqual(JSON.parse(free), { made: 200, told: '' });
    },
  },
  {
    number: 88,
    what: 'who uses up his signals and timers leaves those of others alone',
    async run({ start, sibling, program }) {
      const probe = await start();
      // 1024 pending signals, of which each timer keeps one.
      const { taken, told } = await take(probe, 'timers', 5000);
      assert.equal(told, 'EAGAIN');
      assert.ok(taken <= 1024, String(taken));
      for (const other of [sibling, await start()])
        assert.equal((await take(other, 'timers', 8)).taken, 8);
      assert.match(outside([program, 'take', 'timers', '8']).stdout, /"taken":8/);
      // The function itself can still be signalled, and has timers.
      const command = ['sh', '-c', 'sleep 0.01; kill -TERM $$'];
      assert.equal((await probe.ask<RunResult>({ do: 'run', command })).signal, 'SIGTERM');
    },
  },
  {
    number: 89,
    what: 'what it may write to, and its devices, are files that nobody else has',
    async run({ probe, sibling }) {
      const places = ['/dev/null', '/dev/tty', '/dev/shm', '/tmp', '/home/function', '/function'];
      const find = (paths: string[]) =>
        paths.map((path) => {
          const { dev, ino } = process.getBuiltinModule('node:fs').statSync(path);
          return `${path} ${dev} ${ino}`;
        });
      const [own, others] = [
        await probe.evaluate(find, places),
        await sibling.evaluate(find, places),
      ];
      assert.equal(own.length, places.length);
      assert.deepEqual(
        own.filter((each) => others.includes(each)),
        [],
      );
      // Who had one in common with others could lock it, and hear by inotify(7) what they do.
      const lock = ['hold-lock', '/dev/null', String(2 * slowness)] as const;
      const both = await Promise.all([probe, sibling].map((each) => each.run(...lock)));
      assert.deepEqual(both, ['ok', 'ok']);
      const twice = `/function/probe ${lock.join(' ')} & /function/probe ${lock.join(' ')}; wait`;
      const { stdout } = await probe.ask<RunResult>({ do: 'run', command: ['sh', '-c', twice] });
      assert.deepEqual(stdout.trim().split('\n').toSorted(), ['EAGAIN', 'ok']);
    },
  },
];

interface BombResult {
  made: number;
  told: string;
}

function wordsIn(...lines: string[]): string[] {
  return lines.flatMap((line) => line.split(' '));
}

function read(path: string): string {
  return readFileSync(path, 'utf8');
}

/** Whether there is anything, to who has the right. */
function isReadable(path: string): boolean {
  try {
    const fd = openSync(path, 'r');
    closeSync(fd);
    return true;
  } catch {
    return false;
  }
}
