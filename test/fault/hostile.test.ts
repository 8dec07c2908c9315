/** A function that does its worst to the host: the others are served, and memory stays bounded. */
import assert from 'node:assert/strict';
import { before, suite, test } from 'node:test';
import { hostForFile } from '../support/file-host.ts';
import { residentBytes, waitFor } from '../support/host-processes.ts';

const host = hostForFile();

const hostile = `
import { closeSync, readdirSync, readlinkSync, writeSync } from 'node:fs';
import { spawn } from 'node:child_process';

// What leads out of the process: a socket to hear by, and the pipe that answers go by.
const channel = () => {
  const fds = readdirSync('/proc/self/fd').map(Number).filter((fd) => fd > 2);
  const links = new Map(fds.map((fd) => {
    try { return [fd, readlinkSync('/proc/self/fd/' + fd)]; } catch { return [fd, '']; }
  }));
  // Of a pipe of our own both ends are here.
  const isAlone = (link: string) => [...links.values()].filter((one) => one === link).length === 1;
  return [...links].filter(([, link]) => /^(socket|pipe):/.test(link) && isAlone(link));
};
const ends = () => channel().map(([fd]) => fd);
const answers = () => channel().filter(([, link]) => link.startsWith('pipe:')).map(([fd]) => fd);
function frame(type: number, body: string | Buffer, callId = 0, length?: number): Buffer {
  const bytes = Buffer.from(body as string);
  const head = Buffer.alloc(9);
  head.writeUInt32LE(length ?? bytes.length + 5, 0);
  head[4] = type;
  head.writeUInt32LE(callId, 5);
  return Buffer.concat([head, bytes]);
}
const send = (bytes: Buffer) => { for (const fd of answers()) writeAll(fd, bytes); };
function writeAll(fd: number, bytes: Buffer) {
  for (let sent = 0; sent < bytes.length; ) {
    try { sent += writeSync(fd, bytes, sent); }
    catch (error: any) { if (error.code !== 'EAGAIN') throw error; }
  }
}
const odd = { code: 'function.threw', message: { a: [1] }, stack: { b: 2 }, name: 5 };
const forever = () => new Promise(() => setInterval(() => undefined, 1000));

const deeds: Record<string, (event: any) => unknown> = {
  garbage: () => { send(Buffer.alloc(100_000, 0xee)); return forever(); },
  hugeLength: () => { send(frame(19, '', 0, 0xffffffff)); return forever(); },
  unknownType: () => { send(frame(99, 'x')); return forever(); },
  badJson: () => { send(frame(20, '{', calls)); return forever(); },
  nullError: () => { send(frame(20, 'null', calls)); return forever(); },
  inventedCode: () => { send(frame(20, '{"code":"function.invented","message":"m"}', calls));
    return forever();
  },
  hostCode: () => { send(frame(20, '{"code":"internal.bug","message":"m"}', calls));
    return forever();
  },
  oddError: () => { send(frame(20, JSON.stringify(odd), calls));
    return forever();
  },
  strangers: () => {
    for (let id = 1000; id < 3000; id++) send(frame(19, 'xx', id));
    return 'did';
  },
  readyAgain: () => { send(frame(17, '{"steps":"many"}')); return forever(); },
  bytes: async () => {
    const body = frame(19, Buffer.alloc(60_000_000), 4711);
    for (let at = 0; at < 300_000; at++) send(body.subarray(at, at + 1));
    return forever();
  },
  half: () => { send(frame(19, Buffer.alloc(50_000_000), 4711, 70_000_000)); return forever(); },
  close: () => { for (const fd of ends()) closeSync(fd); return forever(); },
  deafen: () => {
    for (const [fd, link] of channel()) if (link.startsWith('socket:')) closeSync(fd);
    return forever();
  },
  closeAndBlock: () => { for (const fd of ends()) closeSync(fd); for (;;); },
  hugeLog: () => { send(frame(21, Buffer.alloc(40_000_000, 0x61))); return forever(); },
  flood: () => {
    const line = frame(21, '\\x01' + 'f'.repeat(60) + '\\n', 1);
    const many = Buffer.concat(Array(500).fill(line));
    for (;;) send(many);
  },
  print: (event) => {
    const line = 'p'.repeat(99);
    for (let bytes = 0; bytes < event.bytes; bytes += 100) console.log(line);
    return 'printed';
  },
  rawPrint: (event) => {
    const block = Buffer.alloc(65_536, 0x71);
    for (let bytes = 0; bytes < event.bytes; bytes += block.length) writeAll(1, block);
    return 'printed';
  },
  child: () => {
    const loop = 'while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done';
    spawn('/bin/sh', ['-c', loop], { stdio: ['ignore', 'inherit', 'inherit'] });
    return forever();
  },
  well: () => 'well',
};
// The host counts the calls of an instance from 1.
let calls = 0;
export const handler = (event: any) => { calls++; return deeds[event.do](event); };
`;

suite('a hostile function', () => {
  before(async () => {
    const manifest = { name: 'hostile', timeoutMs: 20_000, memoryMb: 256 };
    await host().deploy({ manifest, 'handler.ts': hostile });
    const good = 'export const handler = (event: any) => event;';
    await host().deploy({ manifest: { name: 'good' }, 'handler.ts': good });
  });

  const doIt = (deed: string, options: { bytes?: number; timeoutMs?: number } = {}) =>
    host().call(
      'hostile',
      { do: deed, bytes: options.bytes ?? 0 },
      { headers: { 'Hatch-Timeout-Ms': String(options.timeoutMs ?? 20_000) } },
    );

  /** The slowest of the calls to another function while `work` goes on. */
  async function slowestOther(work: Promise<unknown>): Promise<number> {
    let done = false;
    void work.finally(() => (done = true));
    let slowestMs = 0;
    do {
      const started = performance.now();
      const reply = await host().call('good', { n: 1 });
      assert.equal(reply.error, undefined, reply.error?.message);
      slowestMs = Math.max(slowestMs, performance.now() - started);
    } while (!done);
    await work;
    return slowestMs;
  }

  const cases: [deed: string, code: string][] = [
    ['garbage', 'function.exited'],
    ['hugeLength', 'function.exited'],
    ['unknownType', 'function.exited'],
    ['badJson', 'function.exited'],
    ['nullError', 'function.exited'],
    ['inventedCode', 'function.threw'],
    ['hostCode', 'function.threw'],
    ['oddError', 'function.threw'],
    ['readyAgain', 'function.exited'],
    ['close', 'function.exited'],
    ['closeAndBlock', 'function.exited'],
    ['hugeLog', 'function.exited'],
  ];
  for (const [deed, code] of cases)
    test(`"${deed}" harms nobody else`, async () => {
      await doIt('well');
      const started = performance.now();
      const { error } = await doIt(deed);
      assert.equal(error?.code, code, error?.message);
      assert.ok(performance.now() - started < 3000, 'it took too long to notice');
      assert.equal((await host().call('good', { n: 1 })).error, undefined);
      const { error: next } = await doIt('well');
      assert.equal(next, undefined, next?.message);
    });

  test('one that only stops listening keeps its own call waiting, and no other', async () => {
    const { error } = await doIt('deafen', { timeoutMs: 1000 });
    assert.equal(error?.code, 'function.timeout', error?.message);
    assert.equal((await host().call('good', { n: 1 })).error, undefined);
    await waitFor('next call', async () => (await doIt('well')).error === undefined);
  });

  test('answers to calls that nobody made are of no effect', async () => {
    assert.equal((await doIt('strangers')).json<string>(), 'did');
    assert.equal((await doIt('well')).start, 'hot');
  });

  for (const deed of ['bytes', 'half'])
    test(`"${deed}" does not cost the host more than a frame`, async () => {
      const beforeBytes = residentBytes(host().pid);
      const work = doIt(deed, { timeoutMs: 3000 });
      let mostBytes = 0;
      const watch = setInterval(() => {
        mostBytes = Math.max(mostBytes, residentBytes(host().pid));
      }, 50);
      await slowestOther(work);
      clearInterval(watch);
      assert.equal((await work).error?.code, 'function.timeout');
      assert.ok(mostBytes - beforeBytes < 200e6, `${mostBytes - beforeBytes} bytes more`);
    });

  for (const [deed, timeoutMs] of [
    ['flood', 3000],
    ['child', 3000],
    ['print', 20_000],
    ['rawPrint', 20_000],
  ] as const)
    test(`"${deed}": output without end starves nobody`, async (context) => {
      const beforeBytes = residentBytes(host().pid);
      let mostBytes = 0;
      const watch = setInterval(() => {
        mostBytes = Math.max(mostBytes, residentBytes(host().pid));
      }, 50);
      const work = doIt(deed, { timeoutMs, bytes: 100_000_000 });
      const started = performance.now();
      const slowestMs = await slowestOther(work);
      const tookMs = Math.round(performance.now() - started);
      clearInterval(watch);
      const { error } = await work;
      const grew = Math.round((mostBytes - beforeBytes) / 1e6);
      context.diagnostic(`${deed}: ${Math.round(slowestMs)} ms, ${tookMs} ms, ${grew} MB`);
      assert.equal(
        error?.code,
        deed === 'flood' || deed === 'child' ? 'function.timeout' : undefined,
      );
      assert.ok(grew < 300, `${grew} MB more`);
      assert.ok(slowestMs < 1000, `a call waited ${slowestMs} ms`);
      await waitFor('next call', async () => (await doIt('well')).error === undefined);
    });
});
