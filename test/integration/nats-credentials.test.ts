/** Credentials files: the server knows an operator, and users by what that operator has signed. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { errors, nkeys } from '@nats-io/nats-core';
import { HatchError } from '../../host/base/errors.ts';
import { connectNats } from '../../host/dispatch/nats-access.ts';
import { freePort, runNatsServer, untilReady } from '../support/secured-nats.ts';

type KeyPair = ReturnType<typeof nkeys.createUser>;

let directory: string;
let url: string;
let stop: () => Promise<void>;
const account = nkeys.createAccount();

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'hatch-creds-'));
  const operator = nkeys.createOperator();
  const port = await freePort();
  url = `nats://127.0.0.1:${port}`;
  const limits = { subs: -1, conn: -1, leaf: -1, imports: -1, exports: -1, data: -1, payload: -1 };
  const config = {
    listen: `127.0.0.1:${port}`,
    operator: signed(operator, operator, { type: 'operator' }),
    resolver: 'MEMORY',
    resolver_preload: {
      [account.getPublicKey()]: signed(operator, account, { type: 'account', limits }),
    },
  };
  writeFileSync(join(directory, 'server.conf'), JSON.stringify(config));
  stop = await runNatsServer(join(directory, 'server.conf'));
  await untilReady({ url, credentialsFile: credentials('probe') });
});
after(async () => {
  await stop?.();
  rmSync(directory, { recursive: true });
});

test('a credentials file lets its user in, with the permissions it was signed with', async () => {
  const credentialsFile = credentials('caller', { pub: { allow: ['hatch.fn.>', '_INBOX.>'] } });
  const connection = await connectNats({ url, credentialsFile }, { noAsyncTraces: true });
  connection.subscribe('hatch.fn.a', { callback: (_, message) => void message.respond('heard') });
  assert.equal((await connection.request('hatch.fn.a')).string(), 'heard');
  await assert.rejects(connection.request('hatch.ctl.deploy', '{}'), mayNot);
  await connection.close();
});

test('what another account has signed is refused', async () => {
  const credentialsFile = credentials('stranger', {}, nkeys.createAccount());
  await assert.rejects(connectNats({ url, credentialsFile }, { reconnect: false }), (error) => {
    assert.ok(error instanceof HatchError);
    assert.equal(error.code, 'request.forbidden');
    assert.match(error.message, /check the token, nkey or credentials file/);
    return true;
  });
});

test('a replaced credentials file counts from the next connection on', async () => {
  const access = { url, credentialsFile: credentials('rotated') };
  const connection = await connectNats(access, { reconnectTimeWait: 20, noAsyncTraces: true });
  credentials('rotated', { pub: { allow: ['nothing'] } });
  const reconnected = (async () => {
    for await (const { type } of connection.status()) if (type === 'reconnect') return;
  })();
  await connection.reconnect();
  await reconnected;
  await assert.rejects(connection.request('anything'), mayNot);
  await connection.close();
});

function mayNot(error: Error): boolean {
  return error.cause instanceof errors.PermissionViolationError;
}

/** Writes the credentials of a new user, as `nsc` does. */
function credentials(name: string, nats: Record<string, unknown> = {}, signer = account): string {
  const user = nkeys.createUser();
  const seed = new TextDecoder().decode(user.getSeed());
  const jwt = signed(signer, user, { type: 'user', subs: -1, data: -1, payload: -1, ...nats });
  const file = join(directory, `${name}.creds`);
  const lines = [
    '-----BEGIN NATS USER JWT-----',
    jwt,
    '------END NATS USER JWT------',
    '',
    '-----BEGIN USER NKEY SEED-----',
    seed,
    '------END USER NKEY SEED------',
  ];
  writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o600 });
  return file;
}

/** A JWT of NATS: claims about `subject`, signed by `issuer`. */
function signed(issuer: KeyPair, subject: KeyPair, nats: Record<string, unknown>): string {
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const head = part({ typ: 'JWT', alg: 'ed25519-nkey' });
  const claims = part({
    jti: subject.getPublicKey(),
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    sub: subject.getPublicKey(),
    name: 'test',
    nats: { ...nats, version: 2 },
  });
  const signature = issuer.sign(Buffer.from(`${head}.${claims}`));
  return `${head}.${claims}.${Buffer.from(signature).toString('base64url')}`;
}
