/** A nats-server with the configuration that we ship, `ops/nats/server.conf`: TLS, a key a user. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { nkeys } from '@nats-io/nats-core';
import { connectNats, type NatsAccess } from '../../host/dispatch/nats-access.ts';
import { findBinary } from '../../host/dispatch/nats-process.ts';

export const natsRoles = ['host', 'deployer', 'tenant', 'operator', 'caller'] as const;
export type NatsRole = (typeof natsRoles)[number];

export interface SecuredNats {
  directory: string;
  /** Of the certificate authority, and of a certificate for 127.0.0.1 with its key. */
  files: { ca: string; cert: string; key: string };
  access(role: NatsRole): NatsAccess;
  stop(): Promise<void>;
}

export async function startSecuredNats(): Promise<SecuredNats> {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-nats-'));
  const files = makeCertificates(directory);
  const port = await freePort();
  const environment: Record<string, string> = {
    HATCH_NATS_LISTEN: `127.0.0.1:${port}`,
    HATCH_NATS_TLS_CERT_FILE: files.cert,
    HATCH_NATS_TLS_KEY_FILE: files.key,
    HATCH_NATS_STORE_DIRECTORY: join(directory, 'data'),
  };
  for (const role of natsRoles) {
    const pair = nkeys.createUser();
    writeFileSync(seedFile(role), pair.getSeed(), { mode: 0o600 });
    environment[`HATCH_NKEY_${role.toUpperCase()}`] = pair.getPublicKey();
  }
  const stop = await runNatsServer(join(repository, 'ops/nats/server.conf'), environment);
  const access = (role: NatsRole): NatsAccess => ({
    url: `nats://127.0.0.1:${port}`,
    nkeyFile: seedFile(role),
    tlsCaFile: files.ca,
    inboxPrefix: `_INBOX.${role}`,
  });
  await untilReady(access('host'));
  return {
    directory,
    files,
    access,
    stop: async () => {
      await stop();
      rmSync(directory, { recursive: true });
    },
  };

  function seedFile(role: NatsRole): string {
    return join(directory, `${role}.nk`);
  }
}

/** Gives the function that ends it. */
export async function runNatsServer(
  config: string,
  environment: Record<string, string> = {},
): Promise<() => Promise<void>> {
  const binary = (await findBinary('nats-server')) ?? 'nats-server';
  const child = spawn(binary, ['--config', config], {
    env: environment,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
  await once(child, 'spawn');
  child.once('exit', (code) => {
    if (code !== 0 && code !== null) process.stderr.write(log);
  });
  return async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };
}

/** Resolves when the server lets this user in. */
export async function untilReady(access: NatsAccess): Promise<void> {
  const deadline = performance.now() + readyTimeoutMs;
  for (;;) {
    try {
      const connection = await connectNats(access, { reconnect: false });
      await connection.close();
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(20);
    }
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const repository = resolve(import.meta.dirname, '../..');
const readyTimeoutMs = 10_000;

function makeCertificates(directory: string): SecuredNats['files'] {
  const [ca, caKey, cert, key, request, names] = ['ca', 'ca-key', 'cert', 'key', 'csr', 'ext'].map(
    (name) => join(directory, `${name}.pem`),
  ) as [string, string, string, string, string, string];
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { stdio: 'pipe' });
  };
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', '-x509', ...newKey, '-keyout', caKey, '-out', ca, '-subj', '/CN=hatch test CA');
  openssl('req', ...newKey, '-keyout', key, '-out', request, '-subj', '/CN=hatch test');
  writeFileSync(names, 'subjectAltName=IP:127.0.0.1\n');
  const signer = ['-CA', ca, '-CAkey', caKey, '-CAcreateserial', '-extfile', names];
  openssl('x509', '-req', '-in', request, ...signer, '-out', cert);
  return { ca, cert, key };
}
