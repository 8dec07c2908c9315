/** Secrets on a real host: who gets them, and all the places where they must not be. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { natsServerPid, waitFor, zygotePid } from '../support/host-processes.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { memoryHolds } from '../support/process-memory.ts';
import type { InlineFunction } from '../support/upload-function.ts';

let host: TestHost;
before(async () => {
  host = await startHost();
});
after(() => host.stop());

const password = `file-${randomBytes(16).toString('hex')}`;
const apiKey = `env-${randomBytes(16).toString('hex')}`;

/** In what the function says of them the secrets must not be, either. */
const hash = (secret: string): string => createHash('sha256').update(secret).digest('hex');

const keeper: InlineFunction = {
  manifest: {
    name: 'keeper',
    // Its memory is searched, what it never touched included, which the kernel then provides.
    memoryMb: 1024,
    secrets: ['DB_PASSWORD', { name: 'API_KEY', as: 'env' }],
  },
  'handler.ts': `
    import { createHash } from 'node:crypto';
    import { readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
    const hash = (text) => createHash('sha256').update(text).digest('hex');
    const denied = (action) => {
      try { action(); return 'allowed'; } catch (error) { return error.code; }
    };
    export const handler = () => {
      const file = '/run/secrets/DB_PASSWORD';
      const value = readFileSync(file, 'utf8');
      const { mode, uid } = statSync(file);
      return {
        value: hash(value),
        variable: hash(process.env.API_KEY),
        isVariable: 'DB_PASSWORD' in process.env,
        names: readdirSync('/run/secrets'),
        owner: [mode & 0o777, uid],
        directory: statSync('/run/secrets').mode & 0o777,
        mount: readFileSync('/proc/self/mounts', 'utf8').match(/.*secrets.*/)[0],
        change: denied(() => writeFileSync(file, 'x')),
        add: denied(() => writeFileSync('/run/secrets/new', 'x')),
      };
    };`,
};

const spy: InlineFunction = {
  manifest: { name: 'spy' },
  'handler.ts': `
    import { readFileSync, readdirSync } from 'node:fs';
    const read = (path) => { try { return readFileSync(path, 'utf8'); } catch { return ''; } };
    export const handler = () => ({
      names: readdirSync('/run/secrets'),
      environments: readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))
        .map((pid) => read('/proc/' + pid + '/environ')).join() + JSON.stringify(process.env),
    });`,
};

test('a function whose secret is not set is not deployed, and the error says how to set it', () =>
  assert.rejects(host.deploy(keeper), {
    code: 'secret.not_found',
    message: /"DB_PASSWORD", "API_KEY": .*hatch secret set DB_PASSWORD/,
  }));

test('a function gets its secrets as files of its own, on request as variables', async () => {
  const set = await hatch(['secret', 'set', 'DB_PASSWORD'], password);
  assert.deepEqual([set.code, set.stdout], [0, 'DB_PASSWORD is set\n']);
  const file = join(host.stateDirectory, 'value');
  writeFileSync(file, apiKey, { mode: 0o600 });
  assert.equal((await hatch(['secret', 'set', 'API_KEY', file])).code, 0);
  writeFileSync(file, '');
  await host.deploy(keeper);
  const { mount, ...seen } = (await host.call('keeper', {})).json<Record<string, unknown>>();
  assert.deepEqual(seen, {
    value: hash(password),
    variable: hash(apiKey),
    isVariable: false,
    names: ['API_KEY', 'DB_PASSWORD'],
    owner: [0o400, 1000],
    directory: 0o500,
    change: 'EROFS',
    add: 'EROFS',
  });
  assert.match(String(mount), /^\S+ \/run\/secrets tmpfs ro,nosuid,nodev,noexec,/);
});

test('the value is in no place but the function that names it', async () => {
  await host.deploy(spy);
  const { requestId } = await host.call('keeper', {});
  const values = [password, apiKey].map((value) => Buffer.from(value));
  const [instance] = await host.instancesOf('keeper');
  assert.ok(instance);

  const seen = (await host.call('spy')).json<{ names: string[]; environments: string }>();
  assert.deepEqual(seen.names, []);
  const record = JSON.stringify(await host.trace(requestId));
  const logs = JSON.stringify(await host.logs('keeper'));
  const answers = JSON.stringify(await host.client.ask('secret.ls', {}));
  const kept = await everythingKept();
  for (const value of values) {
    for (const place of [seen.environments, record, logs, answers, host.output])
      assert.equal(place.includes(value.toString()), false);
    assert.equal(kept.includes(value), false, 'in a stream');
    for (const path of filesBelow(host.stateDirectory))
      assert.equal(readFileSync(path).includes(value), false, path);
    for (const pid of [zygoteOf(host), natsServerPid(host)])
      assert.equal(memoryHolds(pid, value), false, `in the memory of ${pid}`);
    for (const pid of [host.pid, zygoteOf(host), natsServerPid(host)])
      for (const file of ['environ', 'cmdline'])
        assert.equal(readFileSync(`/proc/${pid}/${file}`).includes(value), false, file);
  }
  const processes = await processesOf(instance);
  const holders = processes.filter((pid) => memoryHolds(pid, Buffer.from(apiKey)));
  assert.equal(holders.length, 1, 'the function has it, and PID 1 has not');
});

test('a new value reaches the next instance; the old one ends with its calls', async () => {
  const set = await hatch(['secret', 'set', 'DB_PASSWORD'], 'another');
  assert.match(set.stdout, /has a new value/);
  await waitFor('the new value', async () => {
    const reply = await host.call('keeper', {});
    return reply.json<{ value: string }>().value === hash('another');
  });
});

test('what is in use is not removed, what nobody uses is', async () => {
  const refused = await hatch(['secret', 'rm', 'API_KEY']);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /function "keeper" has a version that uses it.*secret\.in_use/);
  await hatch(['secret', 'set', 'UNUSED'], 'x');
  assert.equal((await hatch(['secret', 'rm', 'UNUSED'])).stdout, 'UNUSED is removed\n');
  const again = await hatch(['secret', 'rm', 'UNUSED']);
  assert.match(again.stderr, /secret\.not_found/);
});

test('what is empty, too large, or named like a path is refused', async () => {
  assert.match((await hatch(['secret', 'set', 'EMPTY'], '')).stderr, /of 0 bytes: it may have 1/);
  const large = await hatch(['secret', 'set', 'LARGE'], 'x'.repeat(64 * 1024 + 1));
  assert.match(large.stderr, /of 65537 bytes: it may have 1 to 65536/);
  const path = await hatch(['secret', 'set', '../x'], 'x');
  assert.match(path.stderr, /must be letters, digits and _/);
});

test('a new key opens and seals; then the old one is not needed', async () => {
  const file = join(host.stateDirectory, 'secrets.key');
  const old = readFileSync(file, 'utf8');
  const { privateKey } = generateKeyPairSync('x25519');
  const fresh = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  writeFileSync(file, fresh + old);
  assert.match(
    (await hatch(['secret', 'rotate'])).stdout,
    /^2 secrets are now of key [0-9a-f]{16}:/,
  );
  writeFileSync(file, fresh);
  assert.match((await hatch(['secret', 'rotate'])).stdout, /^0 secrets are/);
  await host.deploy(keeper);
  const reply = await host.call('keeper', {});
  assert.equal(reply.json<{ variable: string }>().variable, hash(apiKey));
});

test('without its key a start says so, and the function goes on with the key back', async () => {
  const file = join(host.stateDirectory, 'secrets.key');
  const right = readFileSync(file);
  const { privateKey } = generateKeyPairSync('x25519');
  writeFileSync(file, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  await assert.rejects(host.deploy(keeper), /key [0-9a-f]{16} is not in it: add the key/);
  writeFileSync(file, right);
  await host.deploy(keeper);
});

test('a Node.js that is executed gets them too, past its zygote', async (context) => {
  const other = await startHost({ config: { fork: 'never' } });
  context.after(() => other.stop());
  assert.equal((await hatch(['secret', 'set', 'DB_PASSWORD'], password, other)).code, 0);
  assert.equal((await hatch(['secret', 'set', 'API_KEY'], apiKey, other)).code, 0);
  await other.deploy(keeper);
  const seen = (await other.call('keeper', {})).json<Record<string, unknown>>();
  assert.deepEqual([seen['value'], seen['variable']], [hash(password), hash(apiKey)]);
  for (const value of [password, apiKey])
    assert.equal(memoryHolds(zygoteOf(other), Buffer.from(value)), false);
});

function zygoteOf(one: TestHost): number {
  return zygotePid(one) ?? assert.fail('the host has no zygote');
}

/** All messages of all streams: KV values, objects. */
async function everythingKept(): Promise<Buffer> {
  const manager = await jetstreamManager(host.connection);
  const parts: Uint8Array[] = [];
  for await (const { config, state } of manager.streams.list())
    for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
      const message = await manager.streams.getMessage(config.name, { seq });
      if (message !== null) parts.push(message.data);
    }
  return Buffer.concat(parts);
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((path) => !path.startsWith('images/') && !path.startsWith('run/'))
    .map((path) => join(directory, path))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true);
}

/** Of one instance, by its group's name. */
async function processesOf(instance: string): Promise<number[]> {
  const pids = readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name));
  return pids.map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(`/${instance}`);
    } catch {
      return false;
    }
  });
}

async function hatch(args: string[], input = '', of = host) {
  const child = spawn(resolve(import.meta.dirname, '../../ops/hatch'), args, {
    env: { PATH: process.env['PATH'], HATCH_STATE_DIRECTORY: of.stateDirectory },
    stdio: 'pipe',
  });
  child.stdin.end(input);
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number | null>((done) => child.once('exit', done)),
  ]);
  return { code, stdout, stderr };
}
