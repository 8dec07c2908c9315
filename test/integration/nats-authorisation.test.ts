/**
 * With the server configuration that we ship each kind of user can do its work, and no more. The
 * hosts and the command line are the real ones.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect as connectSocket } from 'node:net';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { Kvm } from '@nats-io/kv';
import { nkeys, type NatsConnection } from '@nats-io/nats-core';
import { HatchError } from '../../host/base/errors.ts';
import { ControlClient } from '../../host/dispatch/control-client.ts';
import { connectNats, type NatsAccess } from '../../host/dispatch/nats-access.ts';
import { natsRefusal } from '../../host/function/nats-refusal.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { natsRoles, startSecuredNats } from '../support/secured-nats.ts';
import type { NatsRole, SecuredNats } from '../support/secured-nats.ts';

let server: SecuredNats;
let host: TestHost;
const connections = new Map<NatsRole, NatsConnection>();

before(async () => {
  server = await startSecuredNats();
  host = await startHost({ config: hostConfig('host'), access: server.access('operator') });
  for (const role of natsRoles)
    connections.set(role, await connectNats(server.access(role), { noAsyncTraces: true }));
});
after(async () => {
  for (const connection of connections.values()) await connection.close();
  await host?.stop();
  await server?.stop();
});

function hostConfig(role: NatsRole) {
  const { url, nkeyFile, tlsCaFile, inboxPrefix } = server.access(role);
  return {
    natsUrl: url,
    natsNkeyFile: nkeyFile ?? '',
    natsTlsCaFile: tlsCaFile ?? '',
    natsInboxPrefix: inboxPrefix ?? '',
  };
}

function as(role: NatsRole): NatsConnection {
  return connections.get(role) ?? assert.fail(`${role} is not connected`);
}

describe('who may do what', () => {
  test('a deployer deploys, asks and follows the output; a caller calls and cancels', async () => {
    const deployed = await hatch('deployer', ['deploy', 'functions/hello', '--json']);
    assert.equal(deployed.stderr, '');
    const { name } = JSON.parse(deployed.stdout) as { name: string };
    assert.equal(name, 'hello');
    assert.match((await hatch('deployer', ['ls'])).stdout, /hello/);

    const logs: string[] = [];
    const following = as('deployer').subscribe('hatch.logs.hello.*', {
      callback: (_, message) => void logs.push(message.string()),
    });
    await as('deployer').flush();
    const called = await hatch('caller', ['invoke', 'hello', '{"name":"Ada"}']);
    assert.match(called.stdout, /Ada/);
    assert.match(called.stderr, /^request \w{22} /);
    const answers = await new ControlClient(as('caller')).askAll('cancel', { requestId: 'none' });
    assert.deepEqual(
      answers.map((answer) => 'reply' in answer && answer.reply),
      [{ cancelled: 0 }],
    );
    following.unsubscribe();
  });

  test("a tenant's deployer reaches its own functions and secrets, and nobody else's", async () => {
    const acme = ['--tenant', 'acme'];
    const directory = functionFolder();
    const deploy = () => hatch('tenant', ['deploy', directory.path, ...acme]);
    await hatch('deployer', ['secret', 'set', 'KEY', directory.value('of-default')]);
    await hatch('deployer', ['secret', 'set', 'KEY', directory.value('of-b'), '--tenant', 'b']);

    for (const tenant of ['default', 'b']) {
      directory.write({ name: 'mine', tenant, secrets: ['KEY'] });
      assert.match((await deploy()).stderr, /it is another tenant's.*request\.forbidden/);
    }
    directory.write({ name: 'mine', tenant: 'acme', secrets: ['KEY'] });
    assert.match((await deploy()).stderr, /hatch secret set KEY --tenant acme.*secret\.not_found/);
    await hatch('tenant', ['secret', 'set', 'KEY', directory.value('of-acme'), ...acme]);
    assert.equal((await deploy()).code, 0);
    assert.match((await hatch('caller', ['invoke', 'mine'])).stdout, /of-acme/);
    const listed = await hatch('tenant', ['secret', 'ls', '--json', ...acme]);
    const secrets = JSON.parse(listed.stdout) as { tenant: string; usedBy: string[] }[];
    assert.deepEqual(
      secrets.map(({ tenant, usedBy }) => [tenant, usedBy]),
      [['acme', ['mine']]],
    );

    // A function of another tenant is not its to replace, to remove or to turn back.
    directory.write({ name: 'hello', tenant: 'acme' });
    assert.match((await deploy()).stderr, /request\.forbidden/);
    for (const args of [
      ['rm', 'hello'],
      ['versions', 'hello'],
      ['rollback', 'hello'],
    ])
      assert.match((await hatch('tenant', [...args, ...acme])).stderr, /request\.forbidden/);
    const without = await hatch('tenant', ['secret', 'set', 'KEY', directory.value('x')]);
    assert.match(without.stderr, /publish to "hatch\.ctl\.secret\.key"/);
    assert.equal((await hatch('tenant', ['rm', 'mine', ...acme])).code, 0);
    assert.equal((await hatch('tenant', ['secret', 'rm', 'KEY', ...acme])).code, 0);
  });

  test('an operator sees to images and hosts, but does not deploy', async () => {
    assert.match((await hatch('operator', ['image', 'ls'])).stdout, /node24/);
    assert.match((await hatch('operator', ['doctor'])).stdout, /ok/);
    const deploy = await hatch('operator', ['deploy', 'functions/hello']);
    assert.equal(deploy.code, 1);
    assert.match(deploy.stderr, /does not let these .*"\$JS\.API\.INFO".*\(request\.forbidden\)/);
  });

  test('who may not control hears so at once, and what to do', async () => {
    const removed = await hatch('caller', ['rm', 'hello']);
    assert.equal(removed.code, 1);
    assert.match(removed.stderr, /publish to "hatch\.ctl\.rm": .*ops\/nats\/README\.md/);
    const volumes = await hatch('deployer', ['volume', 'ls']);
    assert.equal(volumes.code, 0, volumes.stderr);
    const pinned = await hatch('deployer', ['image', 'ls']);
    assert.match(pinned.stderr, /publish to "hatch\.ctl\.image\.ls"/);
  });

  const publications: Record<NatsRole, string[]> = {
    caller: [
      'hatch.ctl.deploy',
      'hatch.ctl.secret.set',
      'hatch.ctl.volume.rm',
      'hatch.logs.hello.x',
      '$KV.hatch_functions.pointer.hello',
      '$JS.API.STREAM.DELETE.KV_hatch_functions',
      '_INBOX.deployer.x',
    ],
    deployer: [
      'hatch.ctl.image.import',
      'hatch.logs.hello.x',
      '$KV.hatch_functions.pointer.hello',
      '$KV.hatch_secrets.secret.A',
      '$JS.API.STREAM.DELETE.OBJ_hatch_layers',
      '$JS.API.STREAM.MSG.GET.KV_hatch_secrets',
      '$JS.API.DIRECT.GET.KV_hatch_secrets.$KV.hatch_secrets.A',
      '$JS.API.CONSUMER.CREATE.KV_hatch_secrets',
      '_INBOX.host.x',
    ],
    tenant: [
      'hatch.ctl.deploy',
      'hatch.ctl.secret.set',
      'hatch.ctl.volume.rm',
      'hatch.tenant.other.deploy',
      'hatch.tenant.other.secret.set',
      'hatch.tenant.other.volume.rm',
      'hatch.fn.hello',
    ],
    operator: ['$O.hatch_layers.M.x', '$KV.hatch_functions.pointer.hello', '$JS.API.STREAM.LIST'],
    host: ['hatch.ctl.deploy', 'hatch.fn.hello', '$KV.others.x', 'anything'],
  };
  const subscriptions = ['>', 'hatch.fn.hello', 'hatch.ctl.deploy', '_INBOX.>', '$KV.>', '_R_.>'];

  for (const role of natsRoles) {
    test(`a ${role} publishes and hears nothing else`, async () => {
      for (const subject of publications[role]) {
        const refused = await refusals(as(role), (connection) => connection.publish(subject, '{}'));
        assert.deepEqual(refused, [`publish of "${subject}"`]);
      }
      const others = natsRoles.filter((one) => one !== role).map((one) => `_INBOX.${one}.x`);
      const heard = role === 'host' ? ['hatch.fn.hello', 'hatch.ctl.deploy'] : ['hatch.logs.x.y'];
      const denied = [...subscriptions, ...others].filter((subject) => !heard.includes(subject));
      for (const subject of denied) {
        const refused = await refusals(as(role), (connection) => {
          connection.subscribe(subject, { callback: () => undefined });
        });
        assert.deepEqual(refused, [`subscription of "${subject}"`], subject);
      }
    });
  }

  test('what is deployed is as it was', async () => {
    const kv = await new Kvm(as('host')).open('hatch_functions');
    assert.equal((await kv.get('pointer.hello'))?.json<{ name: string }>().name, 'hello');
  });
});

describe('who is not let in', () => {
  test('an unknown key is refused, to the command line and to a host', async () => {
    const stranger = join(server.directory, 'stranger.nk');
    writeFileSync(stranger, nkeys.createUser().getSeed());
    const run = await hatch('caller', ['ls'], ['--nkey', stranger]);
    assert.equal(run.code, 1);
    assert.match(run.stderr, /has refused the credentials.*check the token, nkey or/);
    const config = { ...hostConfig('host'), natsNkeyFile: stranger };
    await assert.rejects(startHost({ config, access: server.access('operator') }), /ended while/);
  });

  test('a host with the key of a caller does not pretend to be one', async () => {
    const config = hostConfig('caller');
    await assert.rejects(startHost({ config, access: server.access('operator') }), /ended while/);
  });

  test('neither without TLS nor on the word of an unknown authority', async () => {
    const { tlsCaFile: _, ...trusting } = server.access('caller');
    await refusedWith(
      trusting,
      'host.nats_unavailable',
      /name the file of its certificate authority/,
    );
    const socket = connectSocket(Number(new URL(trusting.url).port), '127.0.0.1');
    socket.write('CONNECT {}\r\nPING\r\n');
    assert.doesNotMatch(await text(socket), /PONG/);
    const files = [{ nkeyFile: '/none.nk' }, { tlsCaFile: '/none.pem' }, { tlsCertFile: '/none' }];
    for (const missing of files)
      await refusedWith({ ...trusting, ...missing }, 'host.nats_unavailable', /Cannot read NATS/);
  });

  test('files that hold something else are named', async () => {
    const other = join(server.directory, 'other');
    writeFileSync(other, readFileSync(server.files.cert));
    const { nkeyFile: _, ...access } = server.access('caller');
    await refusedWith({ ...access, nkeyFile: other }, 'host.nats_unavailable', /begins with SU/);
    const creds = { ...access, credentialsFile: other };
    await refusedWith(creds, 'host.nats_unavailable', /no user's JWT and seed/);
  });

  test('replies to an inbox that is not theirs', async () => {
    const run = await hatch('caller', ['invoke', 'hello'], ['--inbox-prefix', '_INBOX.host']);
    assert.match(run.stderr, /subscribe to "_INBOX\.host\..*inbox-prefix/);
  });
});

async function refusedWith(access: NatsAccess, code: string, message: RegExp): Promise<void> {
  await assert.rejects(connectNats(access, { reconnect: false }), (error) => {
    assert.ok(error instanceof HatchError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

/** What the server has refused of what `action` did. */
async function refusals(
  connection: NatsConnection,
  action: (connection: NatsConnection) => void,
): Promise<string[]> {
  const refused: string[] = [];
  let following = true;
  void (async () => {
    for await (const status of connection.status()) {
      if (!following) return;
      const refusal = status.type === 'error' ? natsRefusal(status.error) : undefined;
      if (refusal === undefined) continue;
      const { operation, subject } = refusal.details;
      refused.push(`${String(operation)} of "${String(subject)}"`);
    }
  })();
  action(connection);
  await connection.flush();
  // The iterator hands on in later turns.
  await new Promise((done) => setImmediate(done));
  following = false;
  return refused;
}

async function hatch(role: NatsRole, args: string[], flags: string[] = []) {
  const { url, nkeyFile, tlsCaFile, inboxPrefix } = server.access(role);
  const child = spawn(resolve(import.meta.dirname, '../../ops/hatch'), [...args, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: resolve(import.meta.dirname, '../..'),
    env: {
      PATH: process.env['PATH'],
      HATCH_NATS_URL: url,
      HATCH_NATS_NKEY_FILE: nkeyFile,
      HATCH_NATS_TLS_CA_FILE: tlsCaFile,
      HATCH_NATS_INBOX_PREFIX: inboxPrefix,
    },
  });
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<number | null>((done) => child.once('exit', done)),
  ]);
  return { code, stdout, stderr };
}

/** A function that gives its secret back, and files with values for it. */
function functionFolder() {
  const path = join(server.directory, 'function');
  mkdirSync(path);
  const source = `import { readFileSync } from 'node:fs';
    export const handler = () => readFileSync('/run/secrets/KEY', 'utf8');`;
  writeFileSync(join(path, 'handler.ts'), source);
  return {
    path,
    write: (manifest: Record<string, unknown>) => {
      const text = JSON.stringify({ entry: 'handler.ts', ...manifest });
      writeFileSync(join(path, 'function.json'), text);
    },
    value: (text: string): string => {
      const file = join(server.directory, `value-${text}`);
      writeFileSync(file, text);
      return file;
    },
  };
}
