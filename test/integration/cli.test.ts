import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { connect } from '@nats-io/transport-node';
import type { LogRecord } from '../../host/base/channels.ts';
import { HatchError } from '../../host/base/errors.ts';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import type { NatsServer } from '../../host/dispatch/nats-server.ts';
import { startFakeHost } from '../support/fake-host.ts';
import type { FakeHost } from '../support/fake-host.ts';

let directory: string;
let server: NatsServer;
let host: FakeHost;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-cli-'));
  server = await startNatsServer({ stateDirectory: directory });
  host = await startFakeHost('one', server);
});
after(async () => {
  await host.stop();
  await server.stop();
  await rm(directory, { recursive: true });
});

interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

/** The real program, which finds the server by the state directory. */
async function hatch(args: string[], { input = '' }: { input?: string } = {}): Promise<Run> {
  const child = start(args);
  child.stdin.end(input);
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number | null>((done) => child.once('exit', done)),
  ]);
  return { code: code ?? -1, stdout, stderr };
}

function start(args: string[]) {
  const { HATCH_NATS_URL: _, ...environment } = process.env;
  const program = resolve(import.meta.dirname, '../../ops/hatch');
  const env = { ...environment, HATCH_STATE_DIRECTORY: directory };
  return spawn(program, args, { env, stdio: 'pipe' });
}

async function functionFolder(name: string, source: string): Promise<string> {
  const folder = join(directory, 'functions', name);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'function.json'), JSON.stringify({ name, entry: 'index.ts' }));
  await writeFile(join(folder, 'index.ts'), source);
  return folder;
}

const source = 'export const handler = async (event: unknown) => event;\n';

test('a function goes from a folder to its result, and away again', async () => {
  const folder = await functionFolder('hello', source);
  const first = await hatch(['deploy', folder]);
  assert.equal(first.stderr, '');
  assert.match(first.stdout, /^hello version 1 \(new\): .* B, ready in 2\.00 ms \(parked\)\n$/);
  const second = await hatch(['deploy', folder, '--json']);
  const deployed = JSON.parse(second.stdout) as { version: string; previousVersion: string };
  assert.deepEqual([deployed.version, deployed.previousVersion], ['2', '1']);

  const called = await hatch(['invoke', 'hello', '{"a":1}']);
  assert.deepEqual([called.code, called.stdout], [0, '{"a":1}']);
  assert.match(called.stderr, /^request \w{22} {2}hot {2}[0-9.]+ [um]s\n$/);
  const piped = await hatch(['invoke', 'hello.1', '-'], { input: 'from stdin' });
  assert.equal(piped.stdout, 'from stdin');
  const file = await hatch(['invoke', 'hello', `@${join(folder, 'index.ts')}`]);
  assert.equal(file.stdout, source);

  assert.match((await hatch(['alias', 'hello', 'live', '1'])).stdout, /^hello: live=1\n$/);
  assert.match((await hatch(['ls'])).stdout, /^NAME .*\nhello +2 +2 +\d{4}-.* live=1\n$/);
  const versions = await hatch(['versions', 'hello']);
  assert.match(versions.stdout, /\n1 .* live\n2 +yes .* sha256:[0-9a-f]{12}\n$/);
  const back = await hatch(['rollback', 'hello']);
  assert.equal(back.stdout, 'hello version 1 (was version 2)\n');
  assert.equal((await hatch(['rm', 'hello'])).stdout, 'hello is removed\n');
  const gone = await hatch(['invoke', 'hello']);
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /^error: Cannot find function "hello".*\(function\.not_found\)/);
});

test('a header and a time limit reach the function', async () => {
  await hatch(['deploy', await functionFolder('headers', source)]);
  host.pool.handlers.set('headers', (request) => ({
    payload: Buffer.from(JSON.stringify(request.headers)),
    encoding: 'json',
  }));
  await host.pool.retire({ name: 'headers', version: '1' });
  const args = ['--header', 'tenant=acme', '--header', 'tenant=b', '--timeout', '1500'];
  const { stdout } = await hatch(['invoke', 'headers', ...args]);
  const { 'Hatch-Request-Id': ids, ...rest } = JSON.parse(stdout) as Record<string, string[]>;
  assert.deepEqual(rest, { tenant: ['acme', 'b'], 'Hatch-Timeout-Ms': ['1500'] });
  assert.match(ids?.[0] ?? '', /^\w{22}$/);
});

test('Ctrl-C cancels the call', async () => {
  await hatch(['deploy', await functionFolder('endless', source)]);
  const called = Promise.withResolvers<void>();
  host.pool.handlers.set('endless', () => {
    called.resolve();
    return new Promise(() => undefined);
  });
  await host.pool.retire({ name: 'endless', version: '1' });
  const child = start(['invoke', 'endless']);
  const exit = once(child, 'exit');
  const stderr = text(child.stderr);
  await called.promise;
  child.kill('SIGINT');
  assert.deepEqual(await exit, [1, null]);
  assert.match(await stderr, /cancelled by its caller \(request\.cancelled\) \[request \w{22}\]/);
});

test('a source that cannot be bundled is named with its line', async () => {
  const folder = await functionFolder('broken', 'export const handler = (;\n');
  const { code, stdout, stderr } = await hatch(['deploy', folder]);
  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /index\.ts:1:\d+.*\(deploy\.invalid\)/s);
});

test('a function that does not load leaves what was there, and its stack is shown', async () => {
  const folder = await functionFolder('loads', source);
  await hatch(['deploy', folder]);
  const details = { stack: 'Error: boom\n    at index.ts:3:7' };
  const cause = new HatchError('function.load_failed', 'boom', { details });
  host.pool.broken.set('loads@2', cause);
  const { code, stderr } = await hatch(['deploy', folder]);
  assert.equal(code, 1);
  assert.match(stderr, /^error: Cannot deploy "loads": boom \(deploy\.failed\)/);
  assert.match(stderr, /at index\.ts:3:7/);
  assert.equal((await hatch(['invoke', 'loads', 'still here'])).stdout, 'still here');
});

test('an error of a function is told on stderr with its request', async () => {
  await hatch(['deploy', await functionFolder('throws', source)]);
  host.pool.handlers.set('throws', () => {
    throw new HatchError('function.threw', 'no such user');
  });
  await host.pool.retire({ name: 'throws', version: '1' });
  const { code, stdout, stderr } = await hatch(['invoke', 'throws']);
  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /^error: no such user \(function\.threw\) \[request \w{22}\]\n$/);
});

const line = (changes: Partial<LogRecord>): LogRecord => ({
  timeMs: 1_700_000_000_000,
  functionName: 'talks',
  functionVersion: '1',
  instanceId: 'i1',
  requestId: 'r1',
  stream: 'stdout',
  text: 'hello\n',
  ...changes,
});

test('logs shows what was printed, and follows what comes', async () => {
  host.logs.push(line({}), line({ stream: 'stderr', text: 'two\nlines\n', requestId: undefined }));
  const { stdout } = await hatch(['logs', 'talks']);
  const shown = stdout.split('\n').map((one) => one.replace(/^\S+ \S+ /, ''));
  assert.deepEqual(shown, ['v1 i1 r1 hello', 'v1 i1 - two', 'v1 i1 - lines', '']);

  const child = start(['logs', 'talks', '--follow', '--json']);
  let seen = '';
  const both = Promise.withResolvers<void>();
  child.stdout.on('data', (chunk: Buffer) => {
    seen += chunk.toString();
    if (seen.includes('news')) both.resolve();
  });
  const connection = await connect({ servers: server.url, token: server.token });
  const publish = setInterval(() => {
    const record = line({ timeMs: Date.now(), text: 'news\n' });
    connection.publish('hatch.logs.talks.i1', JSON.stringify(record));
  }, 20);
  await both.promise;
  clearInterval(publish);
  const ended = new Promise<number | null>((done) => child.once('exit', done));
  child.kill('SIGINT');
  assert.equal(await ended, 0);
  await connection.close();
  const texts = seen.trim().split('\n');
  assert.equal((JSON.parse(texts[0] ?? '') as LogRecord).text, 'hello\n');
});

test('trace draws the call of a request, or gives it as JSON', async () => {
  host.traces.set('traced', {
    requestId: 'traced',
    functionName: 'ledger',
    functionVersion: '3',
    instanceId: 'i1',
    subject: 'hatch.fn.ledger',
    traceparent: undefined,
    start: 'hot',
    startRecord: undefined,
    receivedNs: 1e6,
    dispatchedNs: 2e6,
    endNs: 9e6,
    requestBytes: 1,
    replyBytes: 2,
    error: undefined,
    copyUps: [{ path: '/function/ledger.db', bytesCopied: 8 * 1024 ** 2 }],
  });
  const { code, stdout } = await hatch(['trace', 'traced']);
  assert.equal(code, 0);
  assert.match(stdout, /^ledger@3 .*hatch\.handler.*\/function\/ledger\.db/s);
  const json = JSON.parse((await hatch(['trace', 'traced', '--json'])).stdout) as object;
  assert.partialDeepStrictEqual(json, { host: 'one', requestId: 'traced', endNs: 9e6 });
  const unknown = await hatch(['trace', 'other']);
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /^error: .*"other".*\(trace\.not_found\)/);
});

test('image pin --burst says what is ready, and what is wrong with the file', async () => {
  const file = join(directory, 'burst.json');
  const pin = async (burst: unknown) => {
    await writeFile(file, JSON.stringify(burst));
    return await hatch(['image', 'pin', '--burst', file]);
  };
  const known = await pin({ minutes: 5, functions: [{ name: 'nobody-has-this', calls: 3 }] });
  assert.equal(known.code, 0, known.stderr);
  assert.match(known.stdout, /^HOST +READY +NOT READY +PINNED +FETCHED\none +0 +1 /);
  assert.match(known.stderr, /one: nobody-has-this: Cannot find function/);
  const wrong = await pin({ minutes: 5, functions: [{ name: 'x', calls: 0 }] });
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /burst\.json", functions\.0\.calls/);
  const none = await hatch(['image', 'pin', '--burst', join(directory, 'none.json')]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /Cannot read burst file/);
  assert.match((await hatch(['image', 'unpin', '--burst'])).stdout, /one +released/);
  assert.equal((await hatch(['image', 'pin'])).code, 2);
});

test('top and image ls speak for every host, as tables or JSON', async () => {
  const two = await startFakeHost('two', server);
  try {
    const { stdout } = await hatch(['top']);
    assert.match(stdout, /^HOST +UP SINCE .*\none .*\ntwo .*\n/);
    const json = JSON.parse((await hatch(['top', '--json'])).stdout) as { host: string }[];
    assert.deepEqual(
      json.map((one) => one.host),
      ['one', 'two'],
    );
    const images = await hatch(['image', 'ls']);
    assert.match(images.stdout, /^HOST +REFERENCE/);
    assert.match(images.stderr, /one: 0 B of 1 B/);
    const imported = await hatch(['image', 'import', '/nowhere']);
    assert.equal(imported.code, 1);
    assert.match(imported.stderr, /no layout there \(image\.not_found\)/);
  } finally {
    await two.stop();
  }
});

test('doctor shows hosts and this machine', async () => {
  const { code, stdout } = await hatch(['doctor']);
  assert.equal(code, 0);
  assert.match(stdout, /^host one\n {2}ok {4}kernel {2}one\nthis machine \(/);
});

test('up hands its flags to the host program, which knows them', async () => {
  const help = await hatch(['up', '--help']);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /--parked <value>/);
  const wrong = await hatch(['up', '--parked', 'lots']);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /^error: .*--parked: .*\(host\.config_invalid\)\n$/);
});
