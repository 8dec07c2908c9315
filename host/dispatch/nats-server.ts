/**
 * The embedded nats-server of a host that is given no URL: JetStream, loopback only, its data below
 * the host's state directory. It is restarted when it dies or its JetStream no longer answers. It
 * ends with the host however that ends: the kernel signals it at the host's death, and the next
 * start removes one that stayed.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '@nats-io/transport-node';
import { HatchError, messageOf } from '../base/errors.ts';
import { JetStreamHealth } from './jetstream-health.ts';
import { endStaleServer, findBinary, rememberServer } from './nats-process.ts';

export interface NatsServer {
  /** `nats://127.0.0.1:PORT`; stays the same over restarts of the server. */
  url: string;
  token: string;
  /** The server's process now; undefined while it is being restarted. */
  pid(): number | undefined;
  /** Ends the server and removes its credentials; its data stay. */
  stop(): Promise<void>;
}

export interface NatsServerOptions {
  /** The host's state directory; made when missing. */
  stateDirectory: string;
  /** By default the port of the last run when it is free, else any free one. */
  port?: number;
  /** Most bytes JetStream may keep on disk. */
  storeBytesMax?: number;
  /** How often it is asked whether its JetStream answers; each 10 s by default. */
  healthCheckMs?: number;
  /** Lines of the server's log and what happens to it. */
  onLog?: (line: string) => void;
}

/** Where the command line finds the server: `{ "url": …, "token": … }`, for the owner only. */
export const natsCredentialsFileName = 'nats.json';

/**
 * Starts the server and resolves when it accepts connections.
 * @throws HatchError `host.nats_unavailable` when there is no binary or it does not start,
 *   `host.start_failed` when another host uses the state directory
 */
export async function startNatsServer(options: NatsServerOptions): Promise<NatsServer> {
  const supervisor = new Supervisor(options);
  await supervisor.start();
  return {
    url: supervisor.url,
    token: supervisor.token,
    pid: () => supervisor.pid,
    stop: () => supervisor.stop(),
  };
}

const lastPortFileName = 'port';
/** What the server writes is for its owner only. */
const privately = ['/bin/sh', '-c', 'umask 077; exec "$0" "$@"'];
const host = '127.0.0.1';
const anyPort = -1;
const readyTimeoutMs = 15_000;
const pollMs = 10;
const stopTimeoutMs = 5000;
const restartDelayMinMs = 50;
const restartDelayMaxMs = 5000;
const memoryStoreBytesMax = 64 * 1024 * 1024;
const storeBytesMaxDefault = 10 * 1024 * 1024 * 1024;
const logTailLines = 20;
const healthCheckMsDefault = 10_000;

class Supervisor {
  readonly token = randomBytes(24).toString('hex');
  readonly #options: NatsServerOptions;
  readonly #credentialsFile: string;
  /** The server's own directory, closed to others. */
  readonly #directory: string;
  #binary = '';
  #port = anyPort;
  #child: ChildProcess | undefined;
  #logTail: string[] = [];
  readonly #stopping = new AbortController();
  #restarting: Promise<void> | undefined;

  constructor(options: NatsServerOptions) {
    this.#options = options;
    this.#directory = join(resolve(options.stateDirectory), 'nats');
    this.#credentialsFile = join(resolve(options.stateDirectory), natsCredentialsFileName);
  }

  get url(): string {
    return `nats://${host}:${this.#port}`;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  async start(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    await chmod(this.#directory, 0o700);
    await endStaleServer(this.#directory);
    this.#binary = await requireBinary();
    await this.#launchOnSomePort();
    try {
      await writePrivate(join(this.#directory, lastPortFileName), `${this.#port}\n`);
      const credentials = { url: this.url, token: this.token };
      await writePrivate(this.#credentialsFile, `${JSON.stringify(credentials)}\n`);
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  async stop(): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    this.#stopping.abort();
    await this.#restarting;
    await rm(this.#credentialsFile, { force: true });
    await this.#end();
  }

  /** Somebody else may have taken the last run's port by now; only a configured one is a must. */
  async #launchOnSomePort(): Promise<void> {
    const lastPort = await this.#lastPort();
    this.#port = this.#options.port ?? lastPort ?? anyPort;
    try {
      await this.#launch();
    } catch (error) {
      if (this.#options.port !== undefined || lastPort === undefined) throw error;
      this.#port = anyPort;
      await this.#launch();
    }
  }

  async #launch(): Promise<void> {
    const child = await this.#spawn();
    this.#child = child;
    try {
      await this.#ready(child);
    } catch (error) {
      await this.#end();
      throw new HatchError(
        'host.nats_unavailable',
        `Cannot start nats-server on port ${this.#port}: ${messageOf(error)}`,
        { cause: error, details: { log: this.#logTail } },
      );
    }
    const health = this.#watchHealth(child);
    child.once('exit', (code, signal) => {
      health.stop();
      if (this.#stopping.signal.aborted) return;
      this.#child = undefined;
      this.#log(`nats-server ended with ${signal ?? code}, starting it again`);
      this.#restarting = this.#restart();
    });
  }

  /** What it has acknowledged is in the files, or in memory on the way there: both outlive it. */
  #watchHealth(child: ChildProcess): JetStreamHealth {
    const onIll = (reason: string): void => {
      this.#log(`JetStream does not answer, ending nats-server: ${reason}`);
      child.kill('SIGKILL');
    };
    const { healthCheckMs: checkMs = healthCheckMsDefault } = this.#options;
    return new JetStreamHealth({ url: this.url, token: this.token, checkMs, onIll });
  }

  async #spawn(): Promise<ChildProcess> {
    await rm(this.#portsDirectory, { recursive: true, force: true });
    await mkdir(this.#portsDirectory, { mode: 0o700 });
    const configFile = join(this.#directory, 'nats.conf');
    await writePrivate(configFile, this.#config());
    const command = [...(await deathWish()), ...privately, this.#binary, '--config', configFile];
    const child = spawn(command[0] ?? this.#binary, command.slice(1), {
      cwd: this.#directory,
      // Out of the terminal's group: Ctrl-C is for the host, which needs the server to drain.
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {},
    });
    this.#follow(child);
    await once(child, 'spawn');
    await rememberServer(this.#directory, { pid: child.pid ?? 0, hostPid: process.pid });
    return child;
  }

  /** The server's configuration language is a superset of JSON. */
  #config(): string {
    return JSON.stringify({
      listen: `${host}:${this.#port}`,
      server_name: 'hatch-embedded',
      authorization: { token: this.token },
      ports_file_dir: this.#portsDirectory,
      jetstream: {
        store_dir: join(this.#directory, 'data'),
        max_memory_store: memoryStoreBytesMax,
        max_file_store: this.#options.storeBytesMax ?? storeBytesMaxDefault,
      },
    });
  }

  /** Ready is when a client can connect with our token: so it is this server, not another. */
  async #ready(child: ChildProcess): Promise<void> {
    const deadlineMs = performance.now() + readyTimeoutMs;
    while (performance.now() < deadlineMs) {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`it ended with ${child.signalCode ?? child.exitCode}: ${this.#lastLog()}`);
      }
      const port = await this.#announcedPort();
      if (port !== undefined) {
        this.#port = port;
        const connection = await connect({ servers: this.url, token: this.token, timeout: 5000 });
        await connection.close();
        if (child.exitCode === null && child.signalCode === null) return;
      }
      await sleep(pollMs);
    }
    throw new Error(`it is not ready after ${readyTimeoutMs} ms: ${this.#lastLog()}`);
  }

  /** From `nats-server_<pid>.ports`, which the server writes when it listens. */
  async #announcedPort(): Promise<number | undefined> {
    const [name] = (await readdir(this.#portsDirectory)).filter((file) => file.endsWith('.ports'));
    if (name === undefined) return undefined;
    const text = await readFile(join(this.#portsDirectory, name), 'utf8');
    const port = /"nats:\/\/127\.0\.0\.1:(\d+)"/.exec(text)?.[1];
    return port === undefined ? undefined : Number(port);
  }

  /** Clients reconnect to the same port, so it must be had again. */
  async #restart(): Promise<void> {
    for (let attempt = 0; !this.#stopping.signal.aborted; attempt++) {
      const delayMs = Math.min(restartDelayMinMs * 2 ** attempt, restartDelayMaxMs);
      await sleep(delayMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      if (this.#stopping.signal.aborted) return;
      try {
        await this.#launch();
        return;
      } catch (error) {
        this.#log(messageOf(error));
      }
    }
  }

  async #end(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs);
    await exited;
    clearTimeout(timer);
  }

  async #lastPort(): Promise<number | undefined> {
    const text = await readFile(join(this.#directory, lastPortFileName), 'utf8').catch(() => '');
    return /^[1-9]\d{0,4}\n$/.test(text) ? Number(text) : undefined;
  }

  get #portsDirectory(): string {
    return join(this.#directory, 'ports');
  }

  #follow(child: ChildProcess): void {
    let rest = '';
    child.stderr?.setEncoding('utf8');
    child.stderr?.on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#log(line);
    });
  }

  #log(line: string): void {
    this.#logTail = [...this.#logTail.slice(1 - logTailLines), line];
    this.#options.onLog?.(line);
  }

  #lastLog(): string {
    return (
      this.#logTail.findLast((line) => /\[(?:FTL|ERR)\]/.test(line)) ?? this.#logTail.at(-1) ?? ''
    );
  }
}

async function requireBinary(): Promise<string> {
  const binary = await findBinary('nats-server');
  if (binary !== undefined) return binary;
  throw new HatchError(
    'host.nats_unavailable',
    'Cannot start nats-server: it is not installed; run ops/setup.sh, or configure the URL of one',
  );
}

/**
 * A command prefix after which the kernel ends the server with us, and which takes all
 * capabilities from it: as root without them it can only use its own files.
 */
async function deathWish(): Promise<string[]> {
  const setpriv = await findBinary('setpriv');
  if (setpriv === undefined) return [];
  const dropped =
    process.geteuid?.() === 0
      ? ['--inh-caps=-all', '--ambient-caps=-all', '--bounding-set=-all']
      : [];
  return [setpriv, '--pdeathsig=TERM', '--no-new-privs', ...dropped, '--'];
}

/** Never readable by others, not even for a moment, and never seen half written. */
async function writePrivate(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  await rm(temporary, { force: true });
  await writeFile(temporary, text, { mode: 0o600, flag: 'wx' });
  await rename(temporary, path);
}
