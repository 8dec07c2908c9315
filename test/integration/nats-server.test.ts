import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/transport-node';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import type { NatsServer, NatsServerOptions } from '../../host/dispatch/nats-server.ts';

test('a client with the written credentials is let in, one without is not', async () => {
  const { directory, server } = await started();
  const credentials: unknown = JSON.parse(await readFile(join(directory, 'nats.json'), 'utf8'));
  assert.deepEqual(credentials, { url: server.url, token: server.token });
  assert.match(server.url, /^nats:\/\/127\.0\.0\.1:\d+$/);
  const client = await connect({ servers: server.url, token: server.token });
  await client.flush();
  await client.close();
  await assert.rejects(connect({ servers: server.url, reconnect: false }), /[Aa]uthorization/);
});

test('credentials, configuration and data are for the owner only', async () => {
  const { directory } = await started();
  const modeOf = async (path: string) => (await stat(join(directory, path))).mode & 0o777;
  assert.equal(await modeOf('nats.json'), 0o600);
  assert.equal(await modeOf('nats/nats.conf'), 0o600);
  assert.equal(await modeOf('nats'), 0o700);
});

test('the server holds no capability', async () => {
  const { server } = await started();
  const status = await readFile(`/proc/${server.pid()}/status`, 'utf8');
  assert.match(status, /^CapEff:\s0+$/m);
  assert.match(status, /^CapBnd:\s0+$/m);
});

test('a killed server is started again on its port with its data', async (context) => {
  const { server } = await started();
  const client = await connect({ servers: server.url, token: server.token, reconnectTimeWait: 50 });
  context.after(() => client.close());
  const manager = await jetstreamManager(client);
  await manager.streams.add({ name: 'WORK', subjects: ['work'] });
  await jetstream(client).publish('work', 'kept');
  const killed = server.pid() ?? assert.fail('no process');
  const reconnected = statusOf(client, 'reconnect');
  process.kill(killed, 'SIGKILL');
  await reconnected;
  assert.notEqual(server.pid(), killed);
  const message = await manager.streams.getMessage('WORK', { seq: 1 });
  assert.equal(message?.string(), 'kept');
});

test('a server that hangs is ended and started again', async (context) => {
  const { server } = await started({ healthCheckMs: 100 });
  const client = await connect({ servers: server.url, token: server.token, reconnectTimeWait: 50 });
  context.after(() => client.close());
  const hung = server.pid() ?? assert.fail('no process');
  const reconnected = statusOf(client, 'reconnect');
  process.kill(hung, 'SIGSTOP');
  await reconnected;
  assert.notEqual(server.pid(), hung);
  await sleep(500);
  assert.notEqual(server.pid(), undefined, 'one that answers is left alone');
});

test('stop ends the process, and the next start has the port and data again', async () => {
  const { directory, server } = await started();
  const client = await connect({ servers: server.url, token: server.token });
  await (await jetstreamManager(client)).streams.add({ name: 'WORK', subjects: ['work'] });
  await client.close();
  const pid = server.pid() ?? assert.fail('no process');
  await server.stop();
  assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
  await assert.rejects(stat(join(directory, 'nats.json')), { code: 'ENOENT' });
  const next = await start({ stateDirectory: directory });
  assert.equal(next.url, server.url);
  assert.notEqual(next.token, server.token);
  const again = await connect({ servers: next.url, token: next.token });
  await (await jetstreamManager(again)).streams.info('WORK');
  await again.close();
});

test('a port taken by another program is an error only when it was configured', async (context) => {
  const { directory, server } = await started();
  await server.stop();
  const port = Number(new URL(server.url).port);
  const other = createServer().listen(port, '127.0.0.1');
  await once(other, 'listening');
  context.after(() => other.close());
  await assert.rejects(startNatsServer({ stateDirectory: directory, port }), {
    code: 'host.nats_unavailable',
    message: new RegExp(`^Cannot start nats-server on port ${port}: .*address already in use`),
  });
  const elsewhere = await start({ stateDirectory: directory });
  assert.notEqual(elsewhere.url, server.url);
});

test('a configured port is used', async () => {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  const { server } = await started({ port });
  assert.equal(server.url, `nats://127.0.0.1:${port}`);
});

test('two hosts cannot share a state directory', async () => {
  const { directory, server } = await started();
  await assert.rejects(startNatsServer({ stateDirectory: directory }), {
    code: 'host.start_failed',
    message: new RegExp(`process id ${process.pid} uses it`),
  });
  const client = await connect({ servers: server.url, token: server.token });
  await client.close();
});

test('the server ends with a host that is killed', async () => {
  const directory = await temporary();
  const { host, serverPid } = await startedByAnotherHost(directory);
  host.kill('SIGKILL');
  await once(host, 'exit');
  await until(() => hasEnded(serverPid));
});

test('a server that outlived its host is ended by the next start', async (context) => {
  const directory = await temporary();
  const { host, serverPid } = await startedByAnotherHost(directory);
  context.after(async () => {
    if (!(await hasEnded(serverPid))) process.kill(serverPid, 'SIGKILL');
  });
  // Stopped processes do not act on the signal of their parent's death.
  process.kill(serverPid, 'SIGSTOP');
  host.kill('SIGKILL');
  await once(host, 'exit');
  assert.equal(await hasEnded(serverPid), false);
  const server = await start({ stateDirectory: directory });
  assert.equal(await hasEnded(serverPid), true);
  assert.notEqual(server.pid(), serverPid);
});

test('without the program the error says what to run', async () => {
  const directory = await temporary();
  // The other places looked at are fixed, so the program is hidden in a mount namespace.
  const script = `
    import { startNatsServer } from ${JSON.stringify(module)};
    await startNatsServer({ stateDirectory: ${JSON.stringify(directory)} }).catch((error) =>
      console.log(error.code, error.message));`;
  const hide = 'for f in $(which -a nats-server); do mount --bind /dev/null $f; done; exec "$@"';
  const hidden = `exec unshare -m sh -c '${hide}' sh "$@"`;
  const node = [process.execPath, '--input-type=module', '-e', script];
  const child = spawn('sh', ['-c', hidden, 'sh', ...node], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  await once(child, 'close');
  assert.match(output, /^host\.nats_unavailable Cannot start nats-server: .*run ops\/setup\.sh/);
});

const servers: NatsServer[] = [];
const directories: string[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true });
});

const module = join(import.meta.dirname, '../../host/dispatch/nats-server.ts');

async function started(
  options: Partial<NatsServerOptions> = {},
): Promise<{ directory: string; server: NatsServer }> {
  const directory = await temporary();
  return { directory, server: await start({ ...options, stateDirectory: directory }) };
}

async function start(options: NatsServerOptions): Promise<NatsServer> {
  const server = await startNatsServer(options);
  servers.push(server);
  return server;
}

async function statusOf(client: NatsConnection, type: string): Promise<void> {
  for await (const status of client.status()) {
    if (status.type === type) return;
  }
}

async function startedByAnotherHost(directory: string) {
  const script = `
    import { startNatsServer } from ${JSON.stringify(module)};
    const server = await startNatsServer({ stateDirectory: ${JSON.stringify(directory)} });
    console.log(server.pid());`;
  const host = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line]: Buffer[] = await once(host.stdout, 'data');
  return { host, serverPid: Number(line) };
}

/** A zombie that nobody has reaped yet has ended as well. */
async function hasEnded(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State:\tX');
  return /^State:\s+[XZ]/m.test(status);
}

async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 10_000) {
  const deadlineMs = performance.now() + timeoutMs;
  while (!(await condition())) {
    assert.ok(performance.now() < deadlineMs, `not so after ${timeoutMs} ms`);
    await sleep(20);
  }
}

async function temporary(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'hatch-nats-'));
  directories.push(directory);
  return directory;
}
