/** Debian's docker-registry on loopback, with a directory of its own. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';

const configName = 'config.yml';
const execute = promisify(execFile);

export interface RegistryUser {
  name: string;
  password: string;
}

export class RegistryServer implements AsyncDisposable {
  /** `127.0.0.1:port` */
  readonly host: string;
  readonly directory: string;
  #child: ChildProcess;

  private constructor(host: string, directory: string, child: ChildProcess) {
    this.host = host;
    this.directory = directory;
    this.#child = child;
  }

  /**
   * With a user it wants basic authentication, with `auth` what that says; with `tls` it speaks TLS
   * with `tls.crt` of its.
   */
  static async start(
    options: { user?: RegistryUser; auth?: object; tls?: boolean } = {},
  ): Promise<RegistryServer> {
    const directory = await mkdtemp(join(tmpdir(), 'hatch-registry-'));
    const host = `127.0.0.1:${await freePort()}`;
    const config = {
      version: 0.1,
      log: { level: 'error', accesslog: { disabled: true } },
      storage: {
        filesystem: { rootdirectory: join(directory, 'data') },
        delete: { enabled: true },
      },
      http: { addr: host, ...(options.tls === true ? { tls: await makeTls(directory) } : {}) },
      ...(options.user === undefined ? {} : { auth: await makeAuth(directory, options.user) }),
      ...(options.auth === undefined ? {} : { auth: options.auth }),
    };
    // JSON is YAML.
    await writeFile(join(directory, configName), JSON.stringify(config));
    return new RegistryServer(host, directory, await serve(directory, host));
  }

  /** The same registry again, with what it has. */
  async restart(): Promise<void> {
    await this.stop();
    this.#child = await serve(this.directory, this.host);
  }

  /** The certificate authority of a server with TLS, in PEM. */
  async certificate(): Promise<string> {
    return readFile(join(this.directory, 'tls.crt'), 'utf8');
  }

  /** From now on nobody answers. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.directory, { recursive: true });
  }
}

async function serve(directory: string, host: string): Promise<ChildProcess> {
  const file = join(directory, configName);
  const child = spawn('docker-registry', ['serve', file], { stdio: 'ignore' });
  const failed = once(child, 'error').then(([error]) => {
    throw error;
  });
  failed.catch(() => {});
  await Promise.race([waitForPort(host), failed]);
  return child;
}

/** A `config.json` as `docker login` writes it. */
export function dockerConfig(host: string, user: RegistryUser): string {
  return JSON.stringify({ auths: { [host]: { auth: encodeUser(user) } } });
}

export function basicAuthorization(user: RegistryUser): string {
  return `Basic ${encodeUser(user)}`;
}

function encodeUser({ name, password }: RegistryUser): string {
  return Buffer.from(`${name}:${password}`).toString('base64');
}

/** A key of curve P-256 and a certificate signed by itself; the paths of their files. */
export async function makeTls(directory: string): Promise<{ certificate: string; key: string }> {
  const [certificate, key] = [join(directory, 'tls.crt'), join(directory, 'tls.key')];
  const subject = ['-subj', '/CN=hatch-test', '-addext', 'subjectAltName=IP:127.0.0.1'];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const files = ['-keyout', key, '-out', certificate];
  await execute('openssl', ['req', '-x509', ...kind, ...subject, ...files]);
  return { certificate, key };
}

async function makeAuth(
  directory: string,
  user: RegistryUser,
): Promise<{ htpasswd: { realm: string; path: string } }> {
  const path = join(directory, 'htpasswd');
  await execute('htpasswd', ['-Bbc', '-C', '4', path, user.name, user.password]);
  return { htpasswd: { realm: 'hatch-test', path } };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function waitForPort(host: string): Promise<void> {
  const [address = '', port] = host.split(':');
  for (let round = 0; round < 500; round++) {
    const socket = connect(Number(port), address);
    const isOpen = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (isOpen) return;
    await setTimeout(20);
  }
  assert.fail(`docker-registry does not listen on ${host}`);
}
