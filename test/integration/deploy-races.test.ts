/**
 * Two tenants deploy a new function of the same name at the same moment, on two hosts: one has it,
 * and nothing of the other's is left or was ever reached.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Objm } from '@nats-io/obj';
import { Kvm } from '@nats-io/kv';
import type { HatchError } from '../../host/base/errors.ts';
import { ControlClient } from '../../host/dispatch/control-client.ts';
import { FunctionRegistry } from '../../host/function/registry.ts';
import { secretIdOf, sealSecret } from '../../host/function/secret-box.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { waitFor } from '../support/host-processes.ts';
import { uploadFunction, type InlineFunction, type Upload } from '../support/upload-function.ts';

const rounds = 4;
const tenants = ['acme', 'globex'] as const;
type Tenant = (typeof tenants)[number];

let hosts: TestHost[] = [];
let registry: FunctionRegistry;

before(async () => {
  const first = await startHost();
  hosts = [first];
  const secretsKeyFile = join(first.stateDirectory, 'secrets.key');
  const { natsUrl, token } = first;
  hosts.push(
    await startHost({ config: { natsUrl, ...(token && { natsToken: token }), secretsKeyFile } }),
  );
  registry = await FunctionRegistry.open(first.connection);
  for (const tenant of tenants) await setSecret(tenant, `of ${tenant}`);
});
after(async () => {
  await registry?.close();
  for (const host of hosts.toReversed()) await host.stop();
});

for (let round = 0; round < rounds; round++)
  test(`a new name has one owner, round ${round}`, async () => {
    const name = `race-${round}`;
    const uploads = await Promise.all(tenants.map((tenant) => upload(ownedBy(tenant, name))));
    const racing = callWhile(name);
    const results = await Promise.allSettled(
      tenants.map((tenant, at) => clientOf(tenant).ask('deploy', uploads[at] ?? assert.fail())),
    );
    const answers = await racing.stop();
    const won = results.findIndex(({ status }) => status === 'fulfilled');
    const lost = results.findIndex(({ status }) => status === 'rejected');
    assert.ok(won >= 0 && lost >= 0, JSON.stringify(results));
    const [winner, loser] = [tenants[won], tenants[lost]];
    assert.ok(winner && loser);

    const refused = results[lost];
    assert.ok(refused?.status === 'rejected');
    const { code, message } = refused.reason as HatchError;
    assert.ok(['deploy.conflict', 'request.forbidden'].includes(code), `${code}: ${message}`);
    assert.match(message, new RegExp(`"${name}"`));
    assert.doesNotMatch(JSON.stringify([message, refused.reason]), new RegExp(winner));

    for (const answer of answers) assert.equal(answer, `of ${winner}`);
    for (let call = 0; call < 6; call++)
      assert.equal((await anyHost().call(name)).json<string>(), `of ${winner}`);
    await assertLoserGone({ name, winner, loserLayer: uploads[lost]?.layer.digest ?? '' });
    await assertLoserKeptOut(name, loser);
  });

test('many deploys of a new name by two tenants leave the versions of one', async () => {
  const name = 'crowd';
  const uploads = await Promise.all(tenants.map((tenant) => upload(ownedBy(tenant, name))));
  const results = await Promise.allSettled(
    Array.from({ length: 6 }, (_, at) =>
      clientOf(tenants[at % 2] ?? assert.fail()).ask('deploy', uploads[at % 2] ?? assert.fail()),
    ),
  );
  const owners = new Set(
    results.flatMap(({ status }, at) => (status === 'fulfilled' ? [tenants[at % 2]] : [])),
  );
  assert.equal(owners.size, 1, JSON.stringify(results));
  const [winner] = owners;
  assert.ok(winner);
  const succeeded = results.filter(({ status }) => status === 'fulfilled');
  const versions = await registry.versions(name, { owner: winner });
  assert.equal(versions.length, succeeded.length);
  const loserLayer = uploads[winner === tenants[0] ? 1 : 0]?.layer.digest ?? '';
  await assertLoserGone({ name, winner, loserLayer });
});

test('who watches removes now and then what nothing refers to', async () => {
  const { layer } = await upload(ownedBy('acme', 'never'));
  const watching = await FunctionRegistry.open(anyHost().connection);
  try {
    await watching.watch({ collect: { everyMs: 20, layerGraceMs: 0 } });
    await waitFor('it is collected', () => isGone(layer.digest));
  } finally {
    await watching.close();
  }
});

/** Says in which tenant's name it runs, by that tenant's secret. */
function ownedBy(tenant: Tenant, name: string): InlineFunction {
  return {
    manifest: { name, tenant, secrets: ['KEY'] },
    'handler.ts': `import { readFileSync } from 'node:fs';
      // ${tenant} ${name}
      export const handler = () => readFileSync('/run/secrets/KEY', 'utf8');`,
  };
}

function upload(fn: InlineFunction): Promise<Upload> {
  return uploadFunction(anyHost().connection, fn);
}

function anyHost(): TestHost {
  return hosts[0] ?? assert.fail('no host runs');
}

function clientOf(tenant: Tenant): ControlClient {
  return new ControlClient(anyHost().connection, { tenant });
}

async function setSecret(tenant: Tenant, value: string): Promise<void> {
  const { reply } = await clientOf(tenant).askAny('secret.key', {});
  const { publicKey } = reply;
  const name = secretIdOf({ tenant, name: 'KEY' });
  const box = sealSecret({ publicKey, name, value: Buffer.from(value) });
  await clientOf(tenant).ask('secret.set', { name: 'KEY', box });
}

/** Calls it all the time; what it answered when it was there. */
function callWhile(name: string): { stop: () => Promise<string[]> } {
  const answers: string[] = [];
  let isOver = false;
  const calling = (async () => {
    while (!isOver) {
      await sleep(5);
      const reply = await anyHost().call(name);
      if (reply.error === undefined) answers.push(reply.json<string>());
      else assert.equal(reply.error.code, 'function.not_found', reply.error.message);
    }
  })();
  return {
    stop: async () => {
      isOver = true;
      await calling;
      return answers;
    },
  };
}

async function assertLoserGone(race: {
  name: string;
  winner: string;
  loserLayer: string;
}): Promise<void> {
  const { name, winner, loserLayer } = race;
  const { versions } = (await registry.read(name)) ?? assert.fail();
  const kv = await new Kvm(anyHost().connection).open('hatch_functions');
  const kept: string[] = [];
  for await (const key of await kv.keys(`version.${name}.*`)) kept.push(key.split('.')[2] ?? '');
  assert.deepEqual(kept.toSorted(), versions.toSorted());
  for (const { manifest } of await registry.versions(name)) assert.equal(manifest.tenant, winner);

  await registry.collect({ layerGraceMs: 0 });
  assert.ok(await isGone(loserLayer), 'its bundle is collected');

  await waitFor("the loser's instances end", async () => {
    const all = await Promise.all(hosts.map(async (host) => (await host.status()).instances));
    const ours = all.flat().filter(({ functionName }) => functionName === name);
    return ours.every(({ functionVersion }) => versions.includes(functionVersion));
  });
}

async function isGone(layer: string): Promise<boolean> {
  const store = await new Objm(anyHost().connection).open('hatch_layers');
  const info = await store.info(layer);
  return info === null || info.deleted;
}

async function assertLoserKeptOut(name: string, loser: Tenant): Promise<void> {
  const before = await registry.read(name);
  const client = clientOf(loser);
  const again = await upload(ownedBy(loser, name));
  const attempts = [
    () => client.ask('deploy', again),
    () => client.ask('rm', { name }),
    () => client.ask('rollback', { name }),
    () => client.ask('alias', { name, alias: 'mine', version: '1' }),
    () => client.ask('versions', { name }),
  ];
  for (const attempt of attempts) await assert.rejects(attempt(), { code: 'request.forbidden' });
  assert.deepEqual(await registry.read(name), before);
}
