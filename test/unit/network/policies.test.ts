import assert from 'node:assert/strict';
import { mock, test, type TestContext } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { Policies } from '../../../host/network/policies.ts';

function open(t: TestContext) {
  let nowMs = 0;
  t.mock.method(performance, 'now', () => nowMs);
  const added: string[] = [];
  const removed: string[] = [];
  const notices: string[] = [];
  const resolveName = mock.fn(async (_name: string) => ['192.0.2.1']);
  const policies = new Policies({
    driver: {
      addPolicy: async ({ id }) => void added.push(id),
      removePolicy: async ({ id }) => void removed.push(id),
    },
    nameservers: [],
    resolveName,
    onNotice: (message) => notices.push(message),
  });
  const wait = (ms: number): void => void (nowMs += ms);
  return { policies, added, removed, notices, resolveName, wait };
}

const named = ['a.example:443/tcp'];

test('a policy is made once, however many hold it', async (t) => {
  const { policies, added } = open(t);
  const held = await Promise.all([policies.hold(['443/tcp']), policies.hold(['443/tcp'])]);
  held.push(await policies.hold(['443/tcp']));
  assert.deepEqual(added, [held[0].policy.id]);
  assert.equal(new Set(held.map(({ policy }) => policy.id)).size, 1);
});

test('names are asked for again: in the background at first, then a start waits', async (t) => {
  const { policies, resolveName, wait, added } = open(t);
  const first = await policies.hold(named);
  wait(20_000);
  await policies.hold(named);
  assert.equal(resolveName.mock.callCount(), 1);
  resolveName.mock.mockImplementation(async () => ['192.0.2.2']);
  wait(20_000);
  assert.equal((await policies.hold(named)).policy.id, first.policy.id);
  await policies.idle();
  await new Promise(setImmediate);
  assert.notEqual((await policies.hold(named)).policy.id, first.policy.id);
  assert.equal(resolveName.mock.callCount(), 2);
  wait(400_000);
  resolveName.mock.mockImplementation(async () => ['192.0.2.3']);
  const { policy } = await policies.hold(named);
  assert.deepEqual(policy.hosts, [{ name: 'a.example', addresses: ['192.0.2.3'] }]);
  assert.equal(added.length, 3);
});

test('a name that cannot be resolved fails the start, and says which', async (t) => {
  const { policies, resolveName, notices, wait } = open(t);
  resolveName.mock.mockImplementation(async () => Promise.reject(new Error('ENOTFOUND')));
  await assert.rejects(
    policies.hold(named),
    (error) =>
      error instanceof HatchError &&
      error.code === 'host.start_failed' &&
      error.message.includes('"a.example"'),
  );
  resolveName.mock.mockImplementation(async () => ['192.0.2.1']);
  await policies.hold(named);
  // Later, with an answer at hand, it is told and nothing fails.
  resolveName.mock.mockImplementation(async () => Promise.reject(new Error('ENOTFOUND')));
  wait(60_000);
  await policies.hold(named);
  await new Promise(setImmediate);
  assert.equal(notices.length, 1);
});

test('what nobody has used for long is removed, what somebody holds stays', async (t) => {
  const { policies, removed, added, wait } = open(t);
  const kept = await policies.hold(['1/tcp']);
  (await policies.hold(['2/tcp'])).release();
  wait(700_000);
  await policies.hold(['3/tcp']);
  await policies.idle();
  assert.deepEqual(removed, [added[1]]);
  kept.release();
  // And made anew when it is wanted again.
  await policies.hold(['2/tcp']);
  await policies.idle();
  assert.equal(added[3], added[1]);
});
