/** A host that keeps bundles in a registry: deploys, other hosts, and what it was before. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startHost } from '../support/host.ts';
import type { TestHost } from '../support/host.ts';
import { nameHost } from '../support/named-host.ts';
import { RegistryServer } from '../support/registry-server.ts';
import type { InlineFunction } from '../support/upload-function.ts';

let registry: RegistryServer;
let named: Awaited<ReturnType<typeof nameHost>>;
let host: TestHost;
let bundles: string;

before(async () => {
  registry = await RegistryServer.start();
  bundles = `${registry.host}/team/bundles`;
  named = await nameHost({ registriesInsecure: [registry.host] });
  host = await startHost({ config: named.config });
});
after(async () => {
  await host.stop();
  await registry[Symbol.asyncDispose]();
  await named.assertNothingLeft();
});

const answering = (name: string, answer: string): InlineFunction => ({
  manifest: { name },
  'handler.ts': `export const handler = () => ${JSON.stringify(answer)};`,
});

const answerOf = async (name: string): Promise<string> => (await host.call(name)).json<string>();

async function tags(): Promise<string[]> {
  const reply = await fetch(`http://${registry.host}/v2/team/bundles/tags/list`);
  return reply.ok ? (((await reply.json()) as { tags: string[] | null }).tags ?? []) : [];
}

test('new versions go to the registry, old ones stay where they are, both are found', async () => {
  await host.deploy(answering('older', 'in NATS'));
  await host.stop({ keepState: true });
  host = await startHost({ config: { ...host.config, bundles } });
  const { name } = await host.deploy(answering('newer', 'in the registry'));
  assert.equal(name, 'newer');
  const { versions } = await host.client.ask('versions', { name });
  assert.deepEqual(
    await tags(),
    versions.map(({ digest }) => digest.replace(':', '-')),
  );
  assert.deepEqual(
    [await answerOf('older'), await answerOf('newer')],
    ['in NATS', 'in the registry'],
  );
});

test('another host gets it from there, though it keeps its own in NATS', async () => {
  const second = await startHost({
    config: {
      natsUrl: host.natsUrl,
      natsToken: host.token,
      registriesInsecure: [registry.host],
    },
  });
  try {
    const answers = await Promise.all(Array.from({ length: 30 }, () => host.call('newer')));
    for (const answer of answers) assert.equal(answer.json<string>(), 'in the registry');
    const { functions } = await second.status();
    assert.ok(functions >= 2, 'it has loaded both');
  } finally {
    await second.stop();
  }
});

test('a registry that is down: what runs goes on, a deploy is refused, for then', async () => {
  await host.deploy(answering('other', 'before'));
  await registry.stop();
  await assert.rejects(host.deploy(answering('other', 'never there')), {
    code: 'image.registry_failed',
    message: new RegExp(`the connection to "${registry.host}" failed`),
  });
  const { versions } = await host.client.ask('versions', { name: 'other' });
  assert.equal(versions.length, 1);
  assert.equal(await answerOf('other'), 'before');
  await registry.restart();
  await host.deploy(answering('other', 'after'));
  assert.equal(await answerOf('other'), 'after');
});

test('a registry that lets nobody in: the deploy says so, and changes nothing', async () => {
  const user = { name: 'hatch', password: 'secret' };
  await using closed = await RegistryServer.start({ user });
  const registriesInsecure = [registry.host, closed.host];
  await host.stop({ keepState: true });
  const config = { ...host.config, registriesInsecure, bundles: `${closed.host}/team/bundles` };
  host = await startHost({ config });
  await assert.rejects(host.deploy(answering('newer', 'nowhere')), {
    code: 'image.registry_denied',
    message: /docker login/,
  });
  assert.equal(await answerOf('newer'), 'in the registry');
  const { versions } = await host.client.ask('versions', { name: 'newer' });
  assert.equal(versions.length, 1);
});
