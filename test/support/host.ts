/**
 * A host as users run it: `hatch up` in a process of its own, with its own state directory, control
 * groups and user ids, so that several run beside each other. Whoever imports this gets the output
 * of the running hosts printed when a test fails.
 *
 *     const host = await startHost();
 *     after(() => host.stop());
 *     await host.deploy('functions/hello');
 *     const { start, json } = await host.call('hello', { name: 'world' });
 */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { headers as makeHeaders, type NatsConnection } from '@nats-io/nats-core';
import { stop as stopBundler } from 'esbuild';
import type { CallRecord, LogRecord, StartPath } from '../../host/base/channels.ts';
import type { HatchError } from '../../host/base/errors.ts';
import { openCgroupDriver } from '../../host/cgroup/cgroup.ts';
import type { HostConfig } from '../../host/config.ts';
import type { ControlReply } from '../../host/dispatch/control-api.ts';
import { ControlClient, errorIn } from '../../host/dispatch/control-client.ts';
import { connectNats, type NatsAccess } from '../../host/dispatch/nats-access.ts';
import { seedLayers } from './seeded-layers.ts';
import { slowness } from './slowness.ts';
import { uploadFunction, type InlineFunction } from './upload-function.ts';

export interface StartHostOptions {
  /** Keys of `hatch.json`; by default an embedded NATS, a fresh state directory, 2 parked. */
  config?: Partial<HostConfig>;
  /** Host name; a random one by default. */
  name?: string;
  /** Further variables of the host's environment. */
  environment?: Record<string, string>;
  /** How the test gets into a server of its own; by default like the host, with its token. */
  access?: NatsAccess;
}

export interface CallOptions {
  headers?: Record<string, string>;
  requestId?: string;
  /** How long to wait for the reply; 30 s by default. */
  timeoutMs?: number;
}

export interface Reply {
  /** Undefined when no instance was reached. */
  start: StartPath | undefined;
  requestId: string;
  durationUs: number;
  headers: Record<string, string>;
  bytes: Uint8Array;
  /** Fails the test when the reply is an error. */
  json<T>(): T;
  error: HatchError | undefined;
}

export type HostStatus = ControlReply<'status'>;

/** Starts a host and resolves when it serves calls. */
export async function startHost(options: StartHostOptions = {}): Promise<TestHost> {
  const host = await TestHost.launch(options);
  running.add(host);
  try {
    await host.waitUntilReady();
    return host;
  } catch (error) {
    host.printOutput();
    await host.stop();
    throw error;
  }
}

const repository = resolve(import.meta.dirname, '../..');
const commandLine = join(repository, 'host/cli/main.ts');
const readyTimeoutMs = 60_000 * slowness;
const stopTimeoutMs = 60_000 * slowness;
const outputCharsMax = 200_000;
const uidRanges = 512;
const idsPerRange = 65_536;
const uidsEnd = 4_000_000_000;
const running = new Set<TestHost>();
/** Their ends are not known to Node yet. */
const launched = new Set<number | undefined>();

afterEach((context) => {
  if ('passed' in context && context.passed === false)
    for (const host of running) host.printOutput();
});

/** Whether it is a host that Node waits for. */
export function isHost(pid: number): boolean {
  return launched.has(pid);
}

export class TestHost {
  readonly name: string;
  readonly stateDirectory: string;
  readonly cgroupParent: string;
  /** To start another like it, after `kill` or `stop({ keepState })`. */
  readonly config: Partial<HostConfig>;
  readonly pid: number;
  natsUrl = '';
  token: string | undefined;
  readonly #process: ChildProcess;
  readonly #access: NatsAccess | undefined;
  #connection: NatsConnection | undefined;
  #output = '';
  #ended = false;

  static async launch(options: StartHostOptions): Promise<TestHost> {
    const suffix = randomBytes(4).toString('hex');
    const stateDirectory =
      options.config?.stateDirectory ?? (await mkdtemp(join(tmpdir(), 'hatch-test-')));
    const config = {
      hostName: options.name ?? `host-${suffix}`,
      stateDirectory,
      cgroupParent: `hatch-test-${suffix}`,
      uidBase: freeUidBase(),
      uidRanges,
      parked: 2,
      // What is parked is to be known, not to depend on the calls of the test before.
      parkedMax: 0,
      ...options.config,
    };
    if (config.baseImageDirectory === undefined) await seedLayers(stateDirectory);
    const child = spawn(process.execPath, [commandLine, 'up', ...flagsOf(config)], {
      // Descriptors that whoever starts a host may have open: none of them may reach a function.
      stdio: ['ignore', 'pipe', 'pipe', ...Array.from({ length: 24 }, () => 'ignore' as const)],
      env: { ...hostEnvironment(), ...options.environment },
    });
    launched.add(child.pid);
    child.once('exit', () => launched.delete(child.pid));
    await once(child, 'spawn');
    return new TestHost(child, config, options.access);
  }

  private constructor(
    child: ChildProcess,
    config: Partial<HostConfig> &
      Pick<HostConfig, 'hostName' | 'stateDirectory' | 'cgroupParent' | 'uidBase'>,
    access?: NatsAccess,
  ) {
    this.#process = child;
    this.#access = access;
    this.pid = child.pid ?? 0;
    this.config = config;
    this.name = config.hostName;
    this.stateDirectory = config.stateDirectory;
    this.cgroupParent = config.cgroupParent;
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-outputCharsMax);
      });
    child.once('exit', () => (this.#ended = true));
  }

  /** Connects to its NATS server and waits until it answers. */
  async waitUntilReady(): Promise<void> {
    const deadline = performance.now() + readyTimeoutMs;
    for (;;) {
      if (this.#ended) {
        const { exitCode, signalCode } = this.#process;
        const how = `${exitCode ?? signalCode}: ${this.#output}`;
        throw new Error(`Host "${this.name}" ended while it started: ${how}`);
      }
      try {
        await this.#connect();
        await this.status();
        return;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await sleep(20);
      }
    }
  }

  get connection(): NatsConnection {
    assert.ok(this.#connection, 'the host is not connected');
    return this.#connection;
  }

  get client(): ControlClient {
    return new ControlClient(this.connection);
  }

  /** Null while it runs, or when a signal ended it. */
  get exitCode(): number | null {
    return this.#process.exitCode;
  }

  /** Everything that it wrote to its standard output and error. */
  get output(): string {
    return this.#output;
  }

  get alive(): boolean {
    return !this.#ended;
  }

  /**
   * A function folder, relative to the repository or absolute, or the files themselves. `changes`
   * replace fields of its manifest.
   */
  async deploy(
    fn: string | InlineFunction,
    changes: Record<string, unknown> = {},
  ): Promise<ControlReply<'deploy'>> {
    return this.client.ask('deploy', await uploadFunction(this.connection, fn, changes));
  }

  /** A payload that is no bytes is sent as JSON. Resolves with errors of the host, too. */
  async call(name: string, payload?: unknown, options: CallOptions = {}): Promise<Reply> {
    const headers = makeHeaders();
    for (const [key, value] of Object.entries(options.headers ?? {})) headers.set(key, value);
    if (options.requestId !== undefined) headers.set('Hatch-Request-Id', options.requestId);
    const message = await this.connection.request(`hatch.fn.${name}`, bytesOf(payload), {
      headers,
      timeout: options.timeoutMs ?? 30_000 * slowness,
    });
    const error = errorIn(message);
    const fact = (key: string): string => message.headers?.get(key) ?? '';
    return {
      start: (fact('Hatch-Start') || undefined) as StartPath | undefined,
      requestId: fact('Hatch-Request-Id'),
      durationUs: Number(fact('Hatch-Duration-Us')),
      headers: Object.fromEntries(
        [...(message.headers ?? [])].map(([key, values]) => [key, values[0] ?? '']),
      ),
      bytes: message.data,
      json: <T>() => {
        if (error !== undefined) throw error;
        return message.json<T>();
      },
      error,
    };
  }

  /** This host's own answer, when several share a NATS server. */
  async status(): Promise<HostStatus> {
    const answers = await this.client.askAll(
      'status',
      {},
      { timeoutMs: 5000 * slowness, quietMs: 30 },
    );
    const own = answers.find(({ host }) => host === this.name);
    if (own === undefined) throw new Error(`Host "${this.name}" did not answer`);
    if ('error' in own) throw own.error;
    return own.reply;
  }

  /** The ids of the instances of a function. */
  async instancesOf(name: string): Promise<string[]> {
    const { instances } = await this.status();
    return instances.filter(({ functionName }) => functionName === name).map(({ id }) => id);
  }

  async logs(name: string, requestId?: string): Promise<LogRecord[]> {
    const request = { name, limit: 10_000, ...(requestId === undefined ? {} : { requestId }) };
    const answers = await this.client.askAll('logs', request);
    return answers.flatMap((answer) => ('reply' in answer ? answer.reply.records : []));
  }

  /** Waits for it: a call is recorded after its reply has gone. */
  async trace(requestId: string): Promise<CallRecord> {
    const deadline = performance.now() + 2000 * slowness;
    for (;;) {
      try {
        const { reply } = await this.client.askAny('trace', { requestId });
        return reply.record;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await sleep(20);
      }
    }
  }

  /**
   * SIGTERM when it still runs; waits, and removes what is left of it. `keepState` leaves the state
   * directory to a host that is started with the same `config`.
   */
  async stop({ keepState = false } = {}): Promise<void> {
    await this.#end('SIGTERM');
    await openCgroupDriver({ parent: this.cgroupParent }).close();
    if (!keepState) await rm(this.stateDirectory, { recursive: true, force: true });
  }

  /** SIGKILL: the host can clear nothing away. Call `stop` afterwards. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  printOutput(): void {
    process.stderr.write(`--- output of host "${this.name}" ---\n${this.#output}\n---\n`);
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    running.delete(this);
    await this.#connection?.close();
    // The bundler keeps a process that only this ends.
    if (running.size === 0) await stopBundler();
    if (this.#ended) return;
    const exit = once(this.#process, 'exit');
    this.#process.kill(signal);
    const timer = setTimeout(() => {
      this.printOutput();
      this.#process.kill('SIGKILL');
    }, stopTimeoutMs);
    await exit;
    clearTimeout(timer);
  }

  async #connect(): Promise<void> {
    if (this.#connection !== undefined) return;
    const { natsUrl, natsToken } = this.config;
    const server =
      natsUrl === undefined
        ? await embeddedServer(this.stateDirectory)
        : { url: natsUrl, token: natsToken };
    this.natsUrl = server.url;
    this.token = server.token;
    this.#connection = await connectNats(this.#access ?? server, {
      maxReconnectAttempts: -1,
      reconnectTimeWait: 50,
    });
  }
}

async function embeddedServer(stateDirectory: string): Promise<{ url: string; token: string }> {
  const text = await readFile(join(stateDirectory, 'nats.json'), 'utf8');
  return JSON.parse(text) as { url: string; token: string };
}

/** Hosts on one machine must not share user ids: keys and queues are counted by them. */
function freeUidBase(): number {
  const slots = Math.floor(uidsEnd / (uidRanges * idsPerRange));
  return idsPerRange * (2 + randomInt(slots - 1) * uidRanges);
}

function flagsOf(config: Partial<HostConfig>): string[] {
  return Object.entries(config).flatMap(([key, value]) => [
    `--${key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
    String(value),
  ]);
}

/** Neither the test runner's nor the developer's own settings reach the host. */
function hostEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(HATCH_|OTEL_|NODE_TEST_|NODE_OPTIONS$)/.test(name),
  );
  return Object.fromEntries(kept);
}

function bytesOf(payload: unknown): Uint8Array {
  if (payload === undefined) return new Uint8Array();
  return payload instanceof Uint8Array ? payload : Buffer.from(JSON.stringify(payload));
}
