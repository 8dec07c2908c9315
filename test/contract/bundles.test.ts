/** The contract on the object store of a NATS server, and on a repository of docker-registry. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { NatsConnection } from '@nats-io/nats-core';
import { connectNats } from '../../host/dispatch/nats-access.ts';
import { startNatsServer } from '../../host/dispatch/nats-server.ts';
import type { NatsServer } from '../../host/dispatch/nats-server.ts';
import { BundleRepository } from '../../host/function/bundle-repository.ts';
import { LayerObjects } from '../../host/function/layer-objects.ts';
import { pushLayout } from '../../host/image/push.ts';
import { RegistryClient } from '../../host/image/registry/registry-client.ts';
import { makeLayout } from '../support/image-layout.ts';
import { RegistryServer } from '../support/registry-server.ts';
import { bundleSuite } from './bundles.ts';

let directory: string;
let nats: NatsServer;
let connection: NatsConnection;
let objects: LayerObjects;
let registry: RegistryServer;
let client: RegistryClient;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'hatch-bundles-'));
  nats = await startNatsServer({ stateDirectory: directory });
  connection = await connectNats({ url: nats.url, token: nats.token }, {});
  objects = await LayerObjects.open(connection);
  registry = await RegistryServer.start();
  client = new RegistryClient({
    credentialsFile: join(directory, 'none.json'),
    insecure: [registry.host],
    policy: { attemptsMax: 3, firstWaitMs: 10, waitMaxMs: 100 },
  });
});
after(async () => {
  client[Symbol.dispose]();
  await registry[Symbol.asyncDispose]();
  await connection.close();
  await nats.stop();
  await rm(directory, { recursive: true });
});

const repository = (): BundleRepository =>
  new BundleRepository(client, `${registry.host}/team/bundles`);

bundleSuite('object store', () => objects);
bundleSuite('repository of a registry', repository);

test('what others keep in the repository is passed over', async () => {
  const layout = await makeLayout({ directory: join(directory, 'layout'), compression: 'gzip' });
  const target = `${registry.host}/team/bundles:1.0`;
  await pushLayout(client, { directory: layout.directory, target });
  assert.deepEqual(await repository().list({ except: new Set() }), []);
});
