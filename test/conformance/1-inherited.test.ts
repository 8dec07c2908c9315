/** What fork hands down from the zygote is renewed or gone before a function runs. */
import assert from 'node:assert/strict';
import { constants, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { isErrno } from '../../host/sys/errors.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import { processesOf, startProbe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';

const getHost = hostForFile();
/** O_ACCMODE of <fcntl.h>. */
const accessModes = 0o3;

test('1 no open descriptor leads out of an instance or into another', async () => {
  const host = getHost();
  const probes = await Promise.all(['fds-a', 'fds-b'].map((name) => startProbe(host, name)));
  const families = probes.map(({ instanceId }) =>
    processesOf(host, instanceId).map(({ hostPid }) => openThings(hostPid)),
  );
  const hostThings = openThings(host.pid);
  const harmless = /^(pipe|socket):\[\d+\]$|^anon_inode:\[(eventpoll|eventfd|signalfd)\]|\/null$/;
  for (const things of families.flat()) {
    assert.ok(things.size > 3);
    for (const [fd, { thing }] of things) assert.match(thing, harmless, `descriptor ${fd}`);
  }
  // Pipes and counters by their ids: none is open in another container, or in a process of ours.
  const ids = families.map((family) => identifiable(family));
  const others = [[openThings(zygoteOf(host.pid))], [hostThings]].map(identifiable);
  for (const [index, own] of ids.entries()) {
    assert.ok(own.length >= 4, own.join(' '));
    // The host holds the other ends: of the sockets, which have inodes of their own, and of the
    // pipes for output and answers, which have not.
    const shared = own.filter((id) =>
      [...others, ...ids.filter((_ids, other) => other !== index)].flat().includes(id),
    );
    const pipes = pipesBetween({ from: families[index] ?? [], to: hostThings });
    assert.equal(pipes.size, 2, `pipes between: ${[...pipes].join(' ')}`);
    assert.deepEqual(new Set(shared), pipes);
  }
});

// V8 wakes Node's own threads, a child has none of them, and libuv aborts when it cannot write.
test('1 where the zygote wakes its threads an instance has something harmless', async () => {
  const host = getHost();
  const { instanceId } = await startProbe(host, 'wakes');
  const isCounter = (open?: Open) => open?.thing.includes('[eventfd]') === true;
  const wakes = [...openThings(zygoteOf(host.pid))].filter(([, open]) => isCounter(open));
  assert.ok(wakes.length >= 3, 'the main loop and two threads at the least');
  for (const { hostPid, nsPid } of processesOf(host, instanceId)) {
    const own = openThings(hostPid);
    const kept = wakes.filter(([fd]) => isCounter(own.get(fd)));
    // The main loop's own may have got another number.
    assert.ok(
      kept.length >= wakes.length - 1,
      `process ${nsPid} lacks some of ${wakes.map(([fd]) => fd).join(' ')}`,
    );
  }
});

interface Open {
  /** Such as `pipe:[123]`; counters, which have no inodes, with their ids. */
  thing: string;
  /** O_RDONLY, O_WRONLY or O_RDWR. */
  access: number;
}
type Things = Map<string, Open>;

function openThings(pid: number): Things {
  const things: Things = new Map();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let link: string;
    let info: string;
    try {
      link = readlinkSync(`/proc/${pid}/fd/${fd}`);
      info = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8');
    } catch (error) {
      // The process is at work: what it has closed since the list was made is not open.
      if (isErrno(error, 'ENOENT')) continue;
      throw error;
    }
    const id = /^eventfd-id:\s*(\d+)/m.exec(info)?.[1] ?? '';
    const flags = Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? '', 8);
    things.set(fd, { thing: `${link}${id}`, access: flags & accessModes });
  }
  return things;
}

function identifiable(family: Things[]): string[] {
  const all = family.flatMap((things) => [...things.values()].map(({ thing }) => thing));
  return all.filter((thing) => /^(pipe|socket):|eventfd\]\d/.test(thing));
}

/** Which processes can only write to, and another only read: output and answers. */
function pipesBetween({ from, to }: { from: Things[]; to: Things }): Set<string> {
  const read = pipesOpen(to, constants.O_RDONLY);
  const written = from.flatMap((things) => pipesOpen(things, constants.O_WRONLY));
  return new Set(written.filter((id) => read.includes(id)));
}

function pipesOpen(things: Things, access: number): string[] {
  return [...things.values()]
    .filter((open) => open.thing.startsWith('pipe:') && open.access === access)
    .map(({ thing }) => thing);
}

function zygoteOf(hostPid: number): number {
  const children = readFileSync(`/proc/${hostPid}/task/${hostPid}/children`, 'utf8').trim();
  const zygote = children
    .split(' ')
    .map(Number)
    .find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('hatch-zygote'));
  assert.ok(zygote !== undefined, children);
  return zygote;
}

test('1 environment, signals, limits, groups and directory are its own', async () => {
  const name = 'renewed';
  const probe = await startProbe(getHost(), name, { env: { OWN: 'variable' } });
  const { stdout } = await probe.ask<RunResult>({ do: 'run', command: ['env'] });
  const names = stdout
    .trim()
    .split('\n')
    .map((line) => line.split('=')[0] ?? '')
    .toSorted();
  assert.deepEqual(names, [
    'HATCH_FUNCTION_NAME',
    'HATCH_FUNCTION_VERSION',
    'HOME',
    'LANG',
    'OWN',
    'PATH',
    'TMPDIR',
  ]);
  const status = await probe.ask<string>({ do: 'read', path: '/proc/self/status' });
  const field = (key: string) => new RegExp(`^${key}:\\t(.*)$`, 'm').exec(status)?.[1];
  assert.deepEqual(
    { blocked: field('SigBlk'), groups: field('Groups')?.trim(), mask: field('Umask') },
    { blocked: '0000000000000000', groups: '', mask: '0022' },
  );
  const limits = await probe.ask<string>({ do: 'read', path: '/proc/self/limits' });
  assert.match(limits, /^Max open files +1024 +1024 /m);
  assert.match(limits, /^Max core file size +0 +0 /m);
  assert.equal(readlinkSync(`/proc/${probe.functionPid}/cwd`), '/function');
  assert.equal(readlinkSync(`/proc/${probe.functionPid}/root`), '/');
  // Others of the same user may not look into it.
  const looking = probe.ask({ do: 'read', path: '/proc/1/environ' });
  await assert.rejects(looking, /EACCES/);
});
