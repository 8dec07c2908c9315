/** Who shares a memory layout with whom: tenants do not, and what is executed does with nobody. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { processesOf } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, parentOf, waitFor, zygotePids } from '../support/host-processes.ts';

const idleMs = 2000;
const getHost = hostForFile({
  config: { parked: 0, zygotesMax: 3, zygoteIdleMs: idleMs, instancesMax: 20 },
});

/** Where the loader put the C library, and where malloc's and V8's memory begin. */
const source = `
import { readFileSync } from 'node:fs';
let calls = 0;
export const handler = () => {
  const maps = readFileSync('/proc/self/maps', 'latin1').split('\\n');
  const startOf = (what) => maps.find((line) => what.test(line))?.split('-')[0];
  return {
    calls: (calls += 1),
    layout: [startOf(/libc\\.so/), startOf(/\\[heap\\]/), startOf(/\\[stack\\]/)],
  };
};`;

interface Answer {
  calls: number;
  layout: string[];
  instanceId: string;
}

async function deploy(name: string, manifest: Record<string, unknown>): Promise<void> {
  await getHost().deploy({ manifest: { name, ...manifest }, 'handler.ts': source });
}

async function call(name: string): Promise<Answer> {
  const reply = await getHost().call(name);
  const answer = reply.json<Omit<Answer, 'instanceId'>>();
  const { instanceId = '' } = await getHost().trace(reply.requestId);
  return { ...answer, instanceId };
}

async function remove(name: string): Promise<void> {
  await getHost().client.ask('rm', { name });
}

/** The process that PID 1 of the function's instance was forked from. */
async function zygoteOf(name: string): Promise<number | undefined> {
  const [instanceId = ''] = await getHost().instancesOf(name);
  return parentOf(processesOf(getHost(), instanceId)[0]?.hostPid ?? 0);
}

/** PID 1 of each container and pair that waits. */
function childrenOf(zygote: number): number[] {
  return descendantsOf(zygote)
    .filter(({ parent }) => parent === zygote)
    .map(({ pid }) => pid);
}

suite('trust classes', () => {
  test('functions of one tenant share a layout, and no other tenant knows it', async () => {
    await deploy('a-one', { tenant: 'a' });
    await deploy('a-two', { tenant: 'a' });
    await deploy('of-default', {});
    const [one, two, other] = [await call('a-one'), await call('a-two'), await call('of-default')];
    assert.ok(one.layout.every((address) => /^[0-9a-f]+$/.test(address)));
    assert.deepEqual(one.layout, two.layout);
    for (const [at, address] of one.layout.entries()) assert.notEqual(address, other.layout[at]);
    assert.equal(await zygoteOf('a-one'), await zygoteOf('a-two'));
    assert.notEqual(await zygoteOf('a-one'), await zygoteOf('of-default'));
    for (const name of ['a-one', 'a-two', 'of-default']) await remove(name);
  });

  test('what is parked for one tenant serves no other', async () => {
    const host = getHost();
    await deploy('theirs', { tenant: 'a', parked: 2, reuse: 'never' });
    await deploy('ours', { tenant: 'b', reuse: 'never' });
    // Those that the deploys have tried.
    await call('theirs');
    await call('ours');
    await waitFor('parked', async () => (await host.status()).parked === 2);
    assert.equal((await host.call('ours')).start, 'forked');
    assert.equal((await host.status()).parked, 2);
    assert.equal((await host.call('theirs')).start, 'parked');
    await remove('theirs');
    await waitFor('none parked', async () => (await host.status()).parked === 0);
    await remove('ours');
  });

  test('an executed instance has a layout of its own each time', async () => {
    await deploy('executed', { isolation: 'exec', reuse: 'never' });
    const layouts: string[] = [];
    for (let round = 0; round < 3; round++) {
      const { calls, layout } = await call('executed');
      assert.equal(calls, 1);
      layouts.push(...layout);
    }
    assert.equal(new Set(layouts).size, layouts.length);
    assert.equal((await getHost().call('executed')).start, 'booted');
    await remove('executed');
  });

  test('an instance that is never reused serves exactly one call, and is gone', async () => {
    const host = getHost();
    await deploy('once', { reuse: 'never', concurrency: 4, instancesMax: 4 });
    const answers = await Promise.all(Array.from({ length: 12 }, () => call('once')));
    for (let round = 0; round < 8; round++) answers.push(await call('once'));
    assert.ok(answers.every(({ calls }) => calls === 1));
    assert.equal(new Set(answers.map(({ instanceId }) => instanceId)).size, answers.length);
    await waitFor('all gone', async () => (await host.instancesOf('once')).length === 0);
    await remove('once');
  });

  test("a zygote ends with its tenant's last function; instances outlive an idle one", async () => {
    const host = getHost();
    await deploy('short', { tenant: 'c' });
    const zygote = (await zygoteOf('short')) ?? assert.fail('no zygote');
    await remove('short');
    await waitFor('it ends', () => !zygotePids(host).includes(zygote));
    await deploy('idle', { tenant: 'd' });
    const idle = (await zygoteOf('idle')) ?? assert.fail('no zygote');
    const before = await call('idle');
    await sleep(idleMs);
    await waitFor('it ends', () => !zygotePids(host).includes(idle));
    const after = await call('idle');
    assert.deepEqual([after.calls, after.layout], [before.calls + 1, before.layout]);
    await remove('idle');
  });

  test('more tenants than zygotes take turns', async () => {
    const host = getHost();
    const tenants = ['e', 'f', 'g', 'h'];
    for (const tenant of tenants) await deploy(`of-${tenant}`, { tenant, reuse: 'never' });
    const answers: Answer[] = [];
    for (const tenant of [...tenants, ...tenants]) answers.push(await call(`of-${tenant}`));
    assert.ok(answers.every(({ calls }) => calls === 1));
    await waitFor('no more than allowed', () => zygotePids(host).length <= 3);
    const [first] = zygotePids(host);
    await waitFor('a default one with its pairs', () => childrenOf(first ?? 0).length === 2);
    // Those that nobody calls meanwhile end, sooner or later.
    for (const tenant of tenants.slice(-2)) await call(`of-${tenant}`);
    const doctor = await host.client.askAny('doctor', {});
    const tenantsCheck = doctor.reply.checks.find(({ name }) => name === 'tenants');
    assert.match(tenantsCheck?.detail ?? '', /^2 zygotes besides the default one, \d\d+ MiB$/);
    for (const tenant of tenants) await remove(`of-${tenant}`);
  });
});
