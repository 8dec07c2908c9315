/**
 * What functions do, broadly: each part must work under the filter. Prints the name of each when it
 * begins. PROFILE=strict: only the parts that the strict profile promises.
 */
import assert from 'node:assert/strict';
import childProcess from 'node:child_process';
import crypto from 'node:crypto';
import dgram from 'node:dgram';
import dns from 'node:dns/promises';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import os from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { DatabaseSync } from 'node:sqlite';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import zlib from 'node:zlib';

/** The types of Node do not have it without those of browsers. */
interface WebAssemblyApi {
  instantiate(bytes: Uint8Array): Promise<{
    instance: { exports: Record<string, () => number> };
  }>;
}
const { WebAssembly: wasm } = globalThis as unknown as { WebAssembly: WebAssemblyApi };

const directory = fs.mkdtempSync(join(os.tmpdir(), 'hatch-seccomp-'));
const at = (name: string) => join(directory, name);

const parts: Record<string, () => Promise<void> | void> = {
  async files() {
    fs.writeFileSync(at('a'), 'text');
    await fs.promises.copyFile(at('a'), at('b'));
    fs.symlinkSync('a', at('symlink'));
    fs.linkSync(at('a'), at('hard-link'));
    fs.renameSync(at('b'), at('c'));
    fs.truncateSync(at('c'), 2);
    fs.chmodSync(at('a'), 0o600);
    fs.utimesSync(at('a'), 1, 1);
    await fs.promises.appendFile(at('a'), ' more', { flush: true });
    assert.equal(fs.readFileSync(fs.realpathSync(at('symlink')), 'utf8'), 'text more');
    fs.mkdirSync(at('from'));
    fs.writeFileSync(at('from/file'), '');
    fs.cpSync(at('from'), at('to'), { recursive: true });
    assert.ok(fs.readdirSync(directory, { recursive: true, withFileTypes: true }).length > 6);
    assert.ok(fs.statfsSync(directory).blocks > 0);
    fs.accessSync(at('a'));
    const large = Buffer.alloc(3_000_000, 7);
    await fs.promises.writeFile(at('large'), large);
    assert.deepEqual(await fs.promises.readFile(at('large')), large);
  },
  async streams() {
    const source = fs.createReadStream(process.execPath, { end: 5_000_000 });
    await pipeline(source, zlib.createGzip({ level: 1 }), fs.createWriteStream(at('packed')));
    for await (const entry of await fs.promises.opendir(directory)) assert.ok(entry.name);
    const file = await fs.promises.open(at('packed'), 'r+');
    await file.writev([Buffer.from('a'), Buffer.from('b')], 0);
    await file.datasync();
    await file.close();
  },
  owners() {
    fs.writeFileSync(at('owned'), '');
    fs.chownSync(at('owned'), process.getuid?.() ?? 0, process.getgid?.() ?? 0);
  },
  async watch() {
    const watcher = fs.watch(directory);
    setTimeout(() => fs.writeFileSync(at('watched'), ''), 20);
    await once(watcher, 'change');
    watcher.close();
  },
  async http() {
    const server = http.createServer((_request, response) => response.end('hello'));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const response = await fetch(`http://localhost:${port}`);
    assert.equal(await response.text(), 'hello');
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  },
  async sockets() {
    const server = net.createServer((socket) => socket.end('local')).listen(at('socket'));
    await once(server, 'listening');
    const client = net.connect(at('socket'));
    const [data]: unknown[] = await once(client, 'data');
    assert.equal(String(data), 'local');
    server.close();
    const datagrams = dgram.createSocket('udp4').bind(0, '127.0.0.1');
    await once(datagrams, 'listening');
    datagrams.send('ping', datagrams.address().port, '127.0.0.1');
    assert.equal(String((await once(datagrams, 'message'))[0]), 'ping');
    datagrams.close();
  },
  async names() {
    assert.ok((await dns.lookup('localhost')).address);
    assert.ok(os.networkInterfaces()['lo']);
  },
  async crypto() {
    await promisify(crypto.pbkdf2)('secret', 'salt', 1000, 32, 'sha256');
    await promisify(crypto.scrypt)('secret', 'salt', 32);
    await promisify(crypto.generateKeyPair)('ec', { namedCurve: 'P-256' });
    assert.equal(crypto.randomUUID().length, 36);
    await crypto.subtle.digest('SHA-256', crypto.randomBytes(100));
  },
  async compression() {
    const packed = await promisify(zlib.gzip)('text'.repeat(1000));
    assert.equal((await promisify(zlib.gunzip)(packed)).length, 4000);
    assert.ok((await promisify(zlib.brotliCompress)('text')).length > 0);
  },
  async threads() {
    const code = 'require("worker_threads").parentPort.postMessage(process.pid)';
    const worker = new Worker(code, { eval: true });
    assert.deepEqual(await once(worker, 'message'), [process.pid]);
    await once(worker, 'exit');
  },
  async locks() {
    const code =
      'const { workerData: cell, parentPort } = require("worker_threads");' +
      'Atomics.wait(cell, 0, 0); parentPort.postMessage(cell[0]);';
    const cell = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(code, { eval: true, workerData: cell });
    await once(worker, 'online');
    await delay(20);
    Atomics.store(cell, 0, 7);
    Atomics.notify(cell, 0);
    assert.deepEqual(await once(worker, 'message'), [7]);
    await once(worker, 'exit');
  },
  async signals() {
    const heard = once(process, 'SIGUSR2');
    // Node does not stay for a signal alone.
    const staying = setInterval(() => undefined, 1000);
    process.kill(process.pid, 'SIGUSR2');
    await heard;
    clearInterval(staying);
  },
  async messages() {
    const code = 'process.on("message", (text) => { process.send(text); process.disconnect(); })';
    const other = childProcess.spawn(process.execPath, ['-e', code], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    other.send('text');
    assert.deepEqual((await once(other, 'message'))[0], 'text');
    await once(other, 'exit');
  },
  async programs() {
    const script =
      'ls / | wc -l; cat /proc/self/status | grep Seccomp: ; (sleep 0.01 & wait); ' +
      `mkfifo ${at('fifo')}; cp ${at('a')} ${at('d')}; find ${directory} | sort | tail -n 1; ` +
      'date; id; uname -a; df / ; timeout 1 true; nice true; sed 1q /etc/passwd; ' +
      'tar c /etc/passwd | gzip';
    const { stdout } = await promisify(childProcess.exec)(`set -e; ${script}`, {
      shell: '/bin/sh',
    });
    assert.match(stdout, /Seccomp:\t2/);
    const child = childProcess.spawn('/bin/sh', ['-c', 'read line; echo $line; kill -TERM $$']);
    child.stdin.end('echo\n');
    const [data]: unknown[] = await once(child.stdout, 'data');
    assert.equal(String(data), 'echo\n');
    assert.deepEqual(await once(child, 'exit'), [null, 'SIGTERM']);
    const forked = childProcess.spawnSync(process.execPath, ['-p', '1+1'], { encoding: 'utf8' });
    assert.equal(forked.stdout, '2\n', forked.stderr);
  },
  busybox() {
    const run = (...args: string[]) =>
      childProcess.execFileSync('busybox', args, { encoding: 'utf8' });
    assert.match(run('sh', '-c', 'echo $((6*7)); (echo a; echo b) | wc -l'), /42\s+2/);
    for (const applet of [['id'], ['ps'], ['ls', '-l', '/'], ['date'], ['df'], ['mktemp', '-u']])
      assert.ok(run(...applet).length > 0, applet.join(' '));
  },
  async timers() {
    await delay(5);
    setImmediate(() => undefined);
    await promisify(setImmediate)();
  },
  async webAssembly() {
    // A module that exports a function "f" which returns 42.
    const bytes = Buffer.from(
      '0061736d010000000105016000017f030201000705010166000' + '00a06010400412a0b',
      'hex',
    );
    const { instance } = await wasm.instantiate(bytes);
    const { f } = instance.exports;
    assert.equal(f?.(), 42);
  },
  sqlite() {
    const database = new DatabaseSync(at('rows.db'));
    database.exec('PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1), (2)');
    assert.deepEqual({ ...database.prepare('SELECT sum(n) AS sum FROM t').get() }, { sum: 3 });
    database.close();
  },
  system() {
    assert.ok(os.cpus().length > 0 && os.freemem() > 0 && os.hostname() !== '');
    process.umask(process.umask());
    assert.ok(process.memoryUsage().rss > 0 && process.resourceUsage().maxRSS > 0);
    assert.equal(typeof os.userInfo().username, 'string');
  },
  priority() {
    os.setPriority(0, os.getPriority(0));
  },
  garbage() {
    // Enough for the collector, which then advises the kernel about memory.
    for (let round = 0; round < 40; round += 1) Array.from({ length: 100_000 }, () => ({ round }));
  },
};

/** They need sockets, other programs, or a right that the strict profile takes. */
const notStrict = new Set([
  'owners',
  'watch',
  'http',
  'sockets',
  'names',
  'messages',
  'programs',
  'busybox',
  'priority',
]);

try {
  for (const [name, part] of Object.entries(parts)) {
    if (process.env['PROFILE'] === 'strict' && notStrict.has(name)) continue;
    console.log(name);
    await part();
  }
  console.log('all parts work');
} finally {
  fs.rmSync(directory, { recursive: true });
}
