import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import {
  manifestJsonSchema,
  parseManifest,
  readManifest,
} from '../../../host/function/manifest.ts';

const functionsDirectory = join(import.meta.dirname, '../../../functions');
const smallest = { name: 'hello', entry: 'handler.ts' };

test('a manifest of name and entry gets every default', () => {
  assert.deepEqual(parseManifest(smallest), {
    ...smallest,
    runtime: 'node24',
    files: [],
    memoryMb: 128,
    cpu: 1,
    cpuBurst: 0,
    cpuWeight: 100,
    pidsMax: 64,
    timeoutMs: 30_000,
    graceMs: 250,
    concurrency: 1,
    instancesMax: 32,
    parked: 0,
    keepAlive: { policy: 'adaptive' },
    reuse: 'same-function',
    seccomp: 'node',
    tenant: 'default',
    isolation: 'fork',
    network: 'none',
    env: {},
    secrets: [],
    volumes: [],
    layers: [],
    triggers: [],
  });
});

test('parsing a parsed manifest changes nothing', () => {
  const manifest = parseManifest({
    ...smallest,
    cpu: 0.5,
    env: { LEVEL: 'debug' },
    reuse: 'never',
    secrets: ['KEY', { name: 'TOKEN', as: 'env' }],
  });
  assert.deepEqual(manifest.secrets[0], { name: 'KEY', as: 'file' });
  assert.deepEqual(parseManifest(structuredClone(manifest)), manifest);
});

test('a fixed keep-alive is said in minutes, or in milliseconds', () => {
  const fixed = { policy: 'fixed', minutes: 1.5 };
  assert.deepEqual(parseManifest({ ...smallest, keepAlive: fixed }).keepAlive, fixed);
  assert.deepEqual(parseManifest({ ...smallest, keepAliveMs: 90_000 }).keepAlive, fixed);
});

test('mistakes are refused with the path of each', () => {
  const cases: [change: Record<string, unknown>, path: string][] = [
    [{ name: 'Hello' }, 'name'],
    [{ name: '-a' }, 'name'],
    [{ name: 'a'.repeat(64) }, 'name'],
    [{ name: 'a.b' }, 'name'],
    [{ entry: '../handler.ts' }, 'entry'],
    [{ entry: 'src/../../handler.ts' }, 'entry'],
    [{ entry: '/etc/passwd.ts' }, 'entry'],
    [{ entry: 'handler.py' }, 'entry'],
    [{ memoryMb: 15 }, 'memoryMb'],
    [{ memoryMb: '128' }, 'memoryMb'],
    [{ cpu: 0 }, 'cpu'],
    [{ cpu: Infinity }, 'cpu'],
    [{ pidsMax: 1.5 }, 'pidsMax'],
    [{ timeoutMs: 900_001 }, 'timeoutMs'],
    [{ concurrency: 0 }, 'concurrency'],
    [{ instancesMax: 0 }, 'instancesMax'],
    [{ keepAliveMs: -1 }, 'keepAliveMs'],
    [{ keepAlive: { policy: 'fixed' } }, 'keepAlive.minutes'],
    [{ keepAlive: { policy: 'lazy' } }, 'keepAlive.policy'],
    [{ keepAlive: { policy: 'adaptive' }, keepAliveMs: 1 }, 'keepAliveMs'],
    [{ runtime: 'node12' }, 'runtime'],
    [{ reuse: 'always' }, 'reuse'],
    [{ env: { '1X': 'a' } }, 'env.1X'],
    [{ env: { X: 1 } }, 'env.X'],
    [{ env: { X: 'a\0b' } }, 'env.X'],
    [{ secrets: ['../X'] }, 'secrets[0]'],
    [{ secrets: ['A', 'HATCH_KEY'] }, 'secrets[1]'],
    [{ secrets: ['A', 'A'] }, 'secrets[1]'],
    [{ secrets: [{ name: 'A', as: 'argument' }] }, 'secrets[0]'],
    [{ secrets: [{ name: 'A', as: 'env' }], env: { A: 'x' } }, 'secrets[0]'],
    [{ env: { HATCH_TOKEN: 'a' } }, 'env.HATCH_TOKEN'],
    [{ files: ['ok', '../secret'] }, 'files[1]'],
    [{ network: { egress: ['443/tcp', '65536/tcp'] } }, 'network'],
    [{ memoryMB: 128 }, 'memoryMB'],
  ];
  for (const [change, path] of cases) {
    const error = refusal({ ...smallest, ...change });
    const problems = error.details['problems'];
    assert.ok(Array.isArray(problems));
    assert.ok(
      problems.some((problem: { path: string }) => problem.path.startsWith(path)),
      `${JSON.stringify(change)}: ${error.message}`,
    );
    assert.match(error.message, new RegExp(path.replace(/[[\]]/g, '\\$&')));
  }
});

test('all mistakes are reported at once', () => {
  const { message } = refusal({ name: 'X', entry: 'a.ts', cpu: -1, speed: 'fast' });
  assert.match(message, /name: .*cpu: .*speed: is not a field/);
});

test('what is not built yet is refused, not ignored', () => {
  const wishes: Record<string, unknown>[] = [{ triggers: [{ cron: '* * * * *' }] }];
  for (const wish of wishes) {
    assert.match(refusal({ ...smallest, ...wish }).message, /is not supported by this version$/);
  }
});

test('a list of what a function may reach is checked line by line', () => {
  const egress = ['443/tcp', '10.0.0.0/8', '[2001:db8::/32]:53/udp', 'api.example.com:443/tcp'];
  const { network } = parseManifest({ ...smallest, network: { egress } });
  assert.deepEqual(network, { egress });
  const wrong = { egress: ['443/tcp', '10.0.0.1/8'] };
  assert.match(
    refusal({ ...smallest, network: wrong }).message,
    /network\.egress\[1\]: must be like/,
  );
});

test('a manifest that cannot be read names its file', async (context) => {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-manifest-'));
  context.after(() => rm(directory, { recursive: true }));
  const file = join(directory, 'function.json');
  const failure = { code: 'deploy.invalid', message: new RegExp(`^Cannot read "${file}": `) };
  await assert.rejects(readManifest(directory), failure);
  await writeFile(file, '{ "name": ');
  await assert.rejects(readManifest(directory), failure);
});

test('the JSON Schema for editors is up to date', async () => {
  const committed = await readFile(join(functionsDirectory, 'function.schema.json'), 'utf8');
  assert.deepEqual(
    JSON.parse(committed),
    JSON.parse(JSON.stringify(manifestJsonSchema())),
    'write JSON.stringify(manifestJsonSchema(), null, 2) to functions/function.schema.json',
  );
});

test('the manifests of all examples are valid', async () => {
  const entries = await readdir(functionsDirectory, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  assert.ok(names.length >= 4);
  for (const name of names) {
    assert.equal((await readManifest(join(functionsDirectory, name))).name, name);
  }
});

function refusal(value: unknown): HatchError {
  try {
    parseManifest(value);
  } catch (error) {
    assert.ok(error instanceof HatchError);
    assert.equal(error.code, 'deploy.invalid');
    return error;
  }
  assert.fail(`accepted ${JSON.stringify(value)}`);
}

test('a strict function has no use for a network: it is refused', () => {
  const manifest = { ...smallest, seccomp: 'strict', network: { egress: ['443/tcp'] } };
  assert.throws(() => parseManifest(manifest), /network: is of no use to a function whose seccomp/);
  assert.equal(parseManifest({ ...smallest, seccomp: 'strict' }).seccomp, 'strict');
});
