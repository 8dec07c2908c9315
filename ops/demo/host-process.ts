/** A host in a process of its own, as `hatch up` runs it, while a demo or a bench lasts. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { stop as stopBundler } from 'esbuild';
import type { ControlReply } from '../../host/dispatch/control-api.ts';
import { ControlClient } from '../../host/dispatch/control-client.ts';
import { natsCredentialsFileName } from '../../host/dispatch/nats-server.ts';
import { bundleFunction } from '../../host/function/bundle.ts';
import { parseManifest, readManifest } from '../../host/function/manifest.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';

export interface NatsAddress {
  url: string;
  token: string;
}

const repository = join(import.meta.dirname, '../..');
const readyTimeoutMs = 30_000;
const outputCharsMax = 16_384;
const readyMark = '"Host is ready"';

export class HostProcess {
  readonly address: NatsAddress;
  /** Control group that holds its instances, by their ids. */
  readonly cgroupParent: string;
  readonly connection: NatsConnection;
  readonly client: ControlClient;
  readonly #child: ChildProcess;
  readonly #stateDirectory: string;

  /** Starts a host with its own state directory and nats-server. `args` are flags of `hatch up`. */
  static async start({ name, args }: { name: string; args: string[] }): Promise<HostProcess> {
    const cgroupParent = `hatch-${name}-${process.pid}`;
    const stateDirectory = await mkdtemp(join(tmpdir(), `hatch-${name}-`));
    const child = spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        join(repository, 'host/main.ts'),
        `--state-directory=${stateDirectory}`,
        `--cgroup-parent=${cgroupParent}`,
        ...args,
      ],
      // Not in our process group: Ctrl-C is ours, and we stop the host in order.
      { stdio: ['ignore', 'ignore', 'pipe'], detached: true, cwd: repository },
    );
    try {
      await ready(child);
      const file = join(stateDirectory, natsCredentialsFileName);
      const address = JSON.parse(await readFile(file, 'utf8')) as NatsAddress;
      const connection = await connect({ servers: address.url, token: address.token });
      return new HostProcess({ child, stateDirectory, cgroupParent, address, connection });
    } catch (error) {
      await end(child, stateDirectory);
      throw error;
    }
  }

  private constructor(parts: {
    child: ChildProcess;
    stateDirectory: string;
    cgroupParent: string;
    address: NatsAddress;
    connection: NatsConnection;
  }) {
    this.#child = parts.child;
    this.#stateDirectory = parts.stateDirectory;
    this.cgroupParent = parts.cgroupParent;
    this.address = parts.address;
    this.connection = parts.connection;
    this.client = new ControlClient(parts.connection);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Deploys a folder of `functions/`; `changes` replace fields of its manifest. */
  async deploy(
    name: string,
    changes: Record<string, unknown> = {},
  ): Promise<ControlReply<'deploy'>> {
    const directory = join(repository, 'functions', name);
    const manifest = parseManifest({ ...(await readManifest(directory)), ...changes });
    const outputDirectory = join(this.#stateDirectory, 'bundles', manifest.name);
    await mkdir(outputDirectory, { recursive: true });
    const { layer, layerFile, entryPath } = await bundleFunction({
      directory,
      manifest,
      outputDirectory,
    });
    const registry = await FunctionRegistry.open(this.connection);
    try {
      await registry.putLayer(createReadStream(layerFile), layer.digest);
    } finally {
      await registry.close();
    }
    await rm(outputDirectory, { recursive: true });
    return await this.client.ask('deploy', { manifest, entryPath, layer });
  }

  /** What this host says of itself. */
  async status(): Promise<ControlReply<'status'>> {
    return (await this.client.askAny('status', {})).reply;
  }

  /** Ends the host and all it made. Never rejects. */
  async stop(): Promise<void> {
    await this.connection.close().catch(() => undefined);
    await end(this.#child, this.#stateDirectory);
  }
}

/** Rejects with what the host said when it ended instead. */
async function ready(child: ChildProcess): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-outputCharsMax);
    if (said.includes(readyMark)) resolve();
  });
  child.once('error', reject);
  child.once('exit', () => reject(new Error(said.trim().replace(/^error: /, ''))));
  const timer = setTimeout(() => {
    reject(new Error(`The host was not ready in ${readyTimeoutMs / 1000} s: ${said}`));
  }, readyTimeoutMs);
  await promise.finally(() => clearTimeout(timer));
}

async function end(child: ChildProcess, stateDirectory: string): Promise<void> {
  // The bundler keeps a process that only this ends.
  await stopBundler();
  if (child.exitCode === null && child.signalCode === null && child.kill('SIGTERM'))
    await once(child, 'exit');
  await rm(stateDirectory, { recursive: true, force: true });
}
