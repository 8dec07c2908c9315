/** What may die at any time does, and the host goes on. */
import assert from 'node:assert/strict';
import { before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { processesOf } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, natsServerPid, waitFor, zygotePid } from '../support/host-processes.ts';

const host = hostForFile();

const source = `
import { setTimeout as sleep } from 'node:timers/promises';
export const handler = async (event: any) => {
  await sleep(event?.ms ?? 0);
  return process.pid;
};`;

async function livingZygote(): Promise<number> {
  let pid = 0;
  await waitFor('a zygote', () => {
    pid = zygotePid(host()) ?? 0;
    return pid > 0;
  });
  return pid;
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Its PID 1 was killed before it.
  }
}

suite('deaths', () => {
  before(async () => {
    await host().deploy({ manifest: { name: 'kept' }, 'handler.ts': source });
    await host().deploy({ manifest: { name: 'fresh', reuse: 'never' }, 'handler.ts': source });
  });

  test('without its zygote the host serves on, and new starts get another one', async () => {
    const pid = await livingZygote();
    const running = host().call('kept', { ms: 300 });
    await sleep(50);
    process.kill(pid, 'SIGKILL');
    const fresh = Array.from({ length: 10 }, () => host().call('fresh', {}));
    assert.equal((await running).error, undefined);
    for (const reply of await Promise.all(fresh)) assert.equal(reply.error, undefined);
    assert.equal((await host().call('kept', {})).start, 'hot');
    assert.notEqual(await livingZygote(), pid);
  });

  test('a zygote that dies again and again is replaced again and again', async () => {
    for (let death = 0; death < 3; death++) {
      process.kill(await livingZygote(), 'SIGKILL');
      const { error } = await host().call('fresh', {});
      assert.equal(error, undefined, error?.message);
    }
    await waitFor('parked again', async () => (await host().status()).parked === 2);
  });

  for (const [who, index] of [
    ['PID 1', 0],
    ['the function process', 1],
  ] as const)
    test(`a call whose instance loses ${who} fails at once, the next one works`, async () => {
      await host().call('kept', {});
      const [instance = ''] = await host().instancesOf('kept');
      const call = host().call('kept', { ms: 10_000 });
      await sleep(50);
      const killedAt = performance.now();
      process.kill(processesOf(host(), instance)[index]?.hostPid ?? 0, 'SIGKILL');
      assert.equal((await call).error?.code, 'function.exited');
      assert.ok(performance.now() - killedAt < 1000);
      assert.equal((await host().call('kept', {})).error, undefined);
      assert.ok(!(await host().instancesOf('kept')).includes(instance));
    });

  test('an idle instance that dies is not called again', async () => {
    await host().call('kept', {});
    const [instance = ''] = await host().instancesOf('kept');
    process.kill(processesOf(host(), instance)[1]?.hostPid ?? 0, 'SIGKILL');
    await waitFor('forgotten', async () => !(await host().instancesOf('kept')).includes(instance));
    assert.equal((await host().call('kept', {})).error, undefined);
  });

  test('parked containers that die are made anew, and no call meets a dead one', async () => {
    await waitFor('parked', async () => (await host().status()).parked === 2);
    const { error } = await host().call('fresh', {});
    assert.equal(error, undefined);
    const parked = descendantsOf(host().pid).filter(
      ({ command, parent }) => command.startsWith('hatch-zygote') && parent !== host().pid,
    );
    for (const { pid } of parked) killIfThere(pid);
    // The kernel tells the host within a few milliseconds.
    await sleep(100);
    const replies = await Promise.all([1, 2, 3].map(() => host().call('fresh', {})));
    for (const reply of replies) assert.equal(reply.error, undefined, reply.error?.message);
    await waitFor('parked again', async () => (await host().status()).parked === 2);
  });

  test('without its nats-server host and callers wait for it, and calls work again', async () => {
    const pid = natsServerPid(host());
    process.kill(pid, 'SIGKILL');
    await waitFor('a call is answered', async () => {
      try {
        return (await host().call('kept', {}, { timeoutMs: 500 })).error === undefined;
      } catch {
        return false;
      }
    });
    assert.notEqual(natsServerPid(host()), pid);
    // What was deployed is still there, and more can be.
    assert.equal((await host().call('fresh', {})).error, undefined);
    await host().deploy({ manifest: { name: 'later' }, 'handler.ts': source });
    assert.equal((await host().call('later', {})).error, undefined);
  });
});
