/** Checks 47 to 54: what a fork hands down. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import type { Secrets } from '../functions/probe/handler.ts';
import { isAlive, oomScoreOf, type Probe } from '../support/containers.ts';
import { zygotePid } from '../support/host-processes.ts';
import type { Check, Subject } from './check.ts';

const startsAfter = 20;
const SIGUSR1 = 10;
const SIGPIPE = 13;
const SIGXFSZ = 25;

const randomKinds = [
  'uuid',
  'bytes',
  'number',
  'keyFingerprint',
  'symmetricKey',
  'webBytes',
  'webKey',
  'temporaryName',
  'hostname',
] as const;

export const zygoteChecks: readonly Check[] = [
  {
    number: 47,
    what: 'random numbers, ids and keys of two instances differ',
    async run({ probe, sibling }) {
      const [one, other] = await Promise.all(
        [probe, sibling].map((each) => each.ask<Secrets>({ do: 'secrets' })),
      );
      for (const kind of randomKinds) assert.notEqual(one?.[kind], other?.[kind], kind);
      // Their process ids are equal, which OpenSSL tells a fork by.
      if (one?.pid === 2) assert.equal(other?.pid, 2);
    },
  },
  {
    number: 48,
    what: 'garbage into every open descriptor disturbs its own instance only',
    async run({ start, sibling, host }) {
      const victim = await start();
      const calling = host.call(victim.name, {
        do: 'evaluate',
        source: String(() => {
          const { writeSync } = process.getBuiltinModule('node:fs');
          for (let fd = 0; fd < 64; fd++)
            try {
              writeSync(fd, Buffer.alloc(8, 0xff));
            } catch {
              // Not open, or not for writing.
            }
        }),
      });
      assert.notEqual((await calling).error, undefined);
      assert.equal(await sibling.ask({ do: 'count' }), 1);
      await host.deploy('test/functions/probe', { name: 'after', reuse: 'never' });
      for (let at = 0; at < startsAfter; at++)
        assert.equal((await host.call('after', { do: 'count' })).json(), 1);
    },
  },
  {
    number: 49,
    what: "environment, arguments and globals hold nothing of the host's",
    async run({ host, start, secret }) {
      const other = await startTold(start);
      const probe = await start();
      const words = [...wordsOfHost({ host, secret }), other.word];
      const found = await probe.evaluate((encoded) => {
        const { inspect } = process.getBuiltinModule('node:util');
        const fs = process.getBuiltinModule('node:fs');
        const files = ['cmdline', 'mountinfo', 'cgroup', 'status', 'limits'];
        const read = files.map((name) => fs.readFileSync(`/proc/self/${name}`, 'utf8'));
        const { env, argv, execArgv, config, versions, title } = process;
        const modules = Reflect.get(process.getBuiltinModule('node:module'), '_cache') as object;
        // Those that are not enumerable, too.
        const names = Object.getOwnPropertyNames(globalThis);
        const globals = names.map((name) => [name, Reflect.get(globalThis, name)]);
        const all = { env, argv, execArgv, config, versions, title, modules, globals };
        const text = inspect(all, { depth: 8, showHidden: true, maxArrayLength: null });
        const sought = encoded.map((word) => Buffer.from(word, 'base64').toString());
        return sought.filter((word) => [...read, text].some((one) => one.includes(word)));
      }, words.map(encode));
      assert.deepEqual(found, []);
      // The function is not allowed to read what it was executed with.
      const environ = readFileSync(`/proc/${probe.functionPid}/environ`, 'latin1');
      for (const word of words) assert.ok(!environ.includes(word), word);
      assert.ok(await other.probe.evaluate((word) => process.env['TOLD'] === word, other.word));
      assert.ok(readFileSync(`/proc/${host.pid}/environ`, 'latin1').includes(secret));
    },
  },
  {
    number: 50,
    what: "no memory of the host's is in an instance: its environment, its token",
    async run({ start, host, secret }) {
      const other = await startTold(start);
      // One that no test has told the words. Who reads memory that was never touched makes the
      // kernel provide it, and its owner pay for it.
      const probe = await start({ memoryMb: searchedMb });
      const ofHost = wordsOfHost({ host, secret });
      const words = [...ofHost, other.word];
      for (const pid of [probe.functionPid, probe.initPid])
        assert.deepEqual(wordsInMemory(pid, words), []);
      assert.deepEqual(wordsInMemory(host.pid, ofHost), ofHost);
      assert.deepEqual(wordsInMemory(other.probe.functionPid, [other.word]), [other.word]);
      // The function itself cannot even look at its memory, but for what V8 tells of it.
      await assert.rejects(probe.ask({ do: 'read', path: '/proc/self/mem' }), /EACCES|EIO/);
      assert.deepEqual(await probe.evaluate(wordsInHeap, words.map(encode)), []);
      const own = encode('hatch-heap-own');
      assert.deepEqual(await probe.evaluate(wordsInHeap, [own]), [own]);
    },
  },
  {
    number: 51,
    what: 'no signal is blocked or pending, and there is no terminal',
    async run({ probe, path }) {
      const status = await probe.ask<string>({ do: 'read', path: '/proc/self/status' });
      const setOf = (name: string) =>
        BigInt(`0x${new RegExp(`^${name}:\\t(\\w+)$`, 'm').exec(status)?.[1]}`);
      for (const pending of ['SigPnd', 'ShdPnd']) assert.equal(setOf(pending), 0n, pending);
      // A Node.js that boots keeps the debugger's signal to itself.
      assert.equal(setOf('SigBlk') & ~(path === 'booted' ? bitOf(SIGUSR1) : 0n), 0n);
      assert.equal(setOf('SigIgn') & ~(bitOf(SIGPIPE) | bitOf(SIGXFSZ)), 0n);
      const stat = await probe.ask<string>({ do: 'read', path: '/proc/self/stat' });
      const [, , , group, session, terminal, foreground] = stat
        .slice(stat.lastIndexOf(')'))
        .split(' ');
      assert.deepEqual([terminal, foreground], ['0', '-1']);
      if (path !== 'booted') assert.deepEqual([group, session], ['2', '2']);
      await assert.rejects(probe.ask({ do: 'read', path: '/dev/tty' }), /ENXIO/);
    },
  },
  {
    number: 52,
    what: 'umask, limits, priority, processors and oom score are as configured',
    async run({ probe }) {
      for (const pid of [probe.functionPid, probe.initPid]) {
        const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
        if (pid === probe.functionPid) assert.match(limits, /^Max open files +1024 +1024 /m);
        assert.match(limits, /^Max core file size +0 +0 /m);
        assert.match(limits, /^Max pending signals +1024 +1024 /m);
        assert.ok(limitOf(limits, 'Max locked memory') <= 8 * 2 ** 20);
        assert.ok(limitOf(limits, 'Max msgqueue size') <= 819_200);
        assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^Umask:\t0022$/m);
      }
      assert.deepEqual([probe.initPid, probe.functionPid].map(oomScoreOf), [300, 600]);
      // Those of the machine's administrator for the host are its instances', too.
      for (const [name, of] of Object.entries(schedulingOf('self')))
        assert.equal(schedulingOf(probe.functionPid)[name], of, name);
    },
  },
  {
    number: 53,
    what: 'containers end when their zygote is killed during starts, and starts go on',
    async run({ host, start, path }) {
      const before = await start();
      await host.deploy('test/functions/probe', { name: 'burst', reuse: 'never' });
      const calls = Array.from({ length: 6 }, () => host.call('burst', { do: 'count' }));
      const zygote = zygotePid(host);
      assert.ok(zygote !== undefined);
      process.kill(zygote, 'SIGKILL');
      for (const reply of await Promise.all(calls))
        if (reply.error !== undefined) assert.match(reply.error.code, /^(host|function)\./);
      const reply = await host.call('burst', { do: 'count' });
      assert.equal(reply.json(), 1);
      assert.ok(!isAlive(zygote));
      // One that had its function goes on; what is left of others the host's end shows.
      if (path !== 'booted') assert.equal(await before.ask({ do: 'count' }), 1);
    },
  },
  {
    number: 54,
    what: "a prototype or module that one function changes is no other one's",
    async run({ probe, sibling, start }) {
      const pollute = () => {
        Object.assign(Object.prototype, { hatchPolluted: true });
        Object.assign(process.getBuiltinModule('node:fs'), { hatchPolluted: true });
        delete (Object.prototype as { hatchPolluted?: boolean }).hatchPolluted;
        Object.assign(Array.prototype, { hatchPolluted: true });
        return true;
      };
      const isPolluted = () =>
        'hatchPolluted' in [] || 'hatchPolluted' in process.getBuiltinModule('node:fs');
      await probe.evaluate(pollute);
      assert.equal(await probe.evaluate(isPolluted), true);
      assert.equal(await sibling.evaluate(isPolluted), false);
      assert.equal(await (await start()).evaluate(isPolluted), false);
    },
  },
];

/** An instance with a word of its own in environment and memory, from the call's payload. */
/** All that both processes of a container have mapped fits in. */
const searchedMb = 1024;

async function startTold(start: Subject['start']): Promise<{ probe: Probe; word: string }> {
  const word = `hatch-told-${randomUUID()}`;
  const probe = await start({ env: { TOLD: word }, memoryMb: searchedMb });
  await probe.evaluate((told) => Object.hasOwn(Object.assign(globalThis, { told }), 'told'), word);
  return { probe, word };
}

function encode(word: string): string {
  return Buffer.from(word).toString('base64');
}

/**
 * Which of the words the strings in V8's heap have, as V8 tells it: run inside. The words come in
 * base64, and are bytes outside the heap once decoded: else they would be found for being sought.
 */
async function wordsInHeap(encoded: readonly string[]): Promise<string[]> {
  Object.assign(globalThis, { kept: ['hatch', 'heap', 'own'].join('-') });
  const { getHeapSnapshot } = process.getBuiltinModule('node:v8');
  const chunks: Buffer[] = [];
  for await (const chunk of getHeapSnapshot()) chunks.push(Buffer.from(chunk));
  const snapshot = Buffer.concat(chunks);
  return encoded.filter((each) => snapshot.includes(Buffer.from(each, 'base64')));
}

function wordsOfHost({ host, secret }: Pick<Subject, 'host' | 'secret'>): string[] {
  return [secret, host.stateDirectory, ...(host.token === undefined ? [] : [host.token])];
}

/** Which of the words are in the memory of a process. */
function wordsInMemory(pid: number, words: readonly string[]): string[] {
  const found = new Set<string>();
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').trim().split('\n');
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  for (const line of maps) {
    const [range = '', mode = '', , , , name = ''] = line.split(/\s+/);
    if (!mode.startsWith('r') || name.startsWith('[v')) continue;
    const [start = 0, end = 0] = range.split('-').map((hex) => Number.parseInt(hex, 16));
    for (let at = start; at < end; at += chunkBytes)
      for (const word of wordsAt({ memory, at, end }, words)) found.add(word);
  }
  closeSync(memory);
  return words.filter((word) => found.has(word));
}

const chunkBytes = 4 * 2 ** 20;
const overlapBytes = 256;

function wordsAt(
  place: { memory: number; at: number; end: number },
  words: readonly string[],
): string[] {
  const { memory, at, end } = place;
  const chunk = Buffer.alloc(Math.min(chunkBytes + overlapBytes, end - at));
  try {
    readSync(memory, chunk, 0, chunk.length, at);
  } catch {
    // Nothing is behind these pages.
    return [];
  }
  return words.filter((word) => chunk.includes(word) || chunk.includes(word, 0, 'utf16le'));
}

function bitOf(signal: number): bigint {
  return 1n << BigInt(signal - 1);
}

function limitOf(limits: string, name: string): number {
  return Number(new RegExp(`^${name} +(\\d+)`, 'm').exec(limits)?.[1] ?? Number.NaN);
}

/** Nice value, policy and real-time priority, and the processors that may be used. */
function schedulingOf(pid: number | 'self'): Record<string, string | undefined> {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')')).split(' ');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const processors = /^Cpus_allowed:\t(.*)$/m.exec(status)?.[1];
  return { nice: fields[17], realTime: fields[38], policy: fields[39], processors };
}
