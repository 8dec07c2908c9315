/** Calls whose time is up or whose caller has gone: what ends, what is killed, what goes on. */
import assert from 'node:assert/strict';
import { before, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostForFile } from '../support/file-host.ts';
import { descendantsOf, waitFor } from '../support/host-processes.ts';

const host = hostForFile();
const graceMs = 600;

const source = `
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

let started = 0;
const heard: string[] = [];
const deeds: Record<string, (event: any, context: any) => unknown> = {
  well: () => 'well',
  started: () => started,
  heard: () => heard,
  pid: () => process.pid,
  heed: async (event, { signal }) => {
    started++;
    await sleep(60_000, undefined, { signal }).catch(() => undefined);
    heard.push(signal.reason.name);
    await sleep(event.tidyMs);
    heard.push('tidied');
  },
  never: async (event) => {
    started++;
    const stubborn = 'trap "" TERM; sleep ' + event.seconds;
    spawn('/bin/sh', ['-c', stubborn], { detached: true, stdio: 'ignore' }).unref();
    await new Promise(() => undefined);
  },
};
export const handler = (event: any, context: any) => deeds[event.do](event, context);
`;

async function ask<T>(deed: string): Promise<T> {
  return (await host().call('one', { do: deed })).json<T>();
}

async function cancel(requestId: string): Promise<number> {
  const answers = await host().client.askAll('cancel', { requestId });
  return answers.reduce((sum, one) => sum + ('reply' in one ? one.reply.cancelled : 0), 0);
}

/** Until the function runs that many more calls than before. */
const running = (instance: string | undefined) =>
  waitFor('the call runs', async () => {
    const { instances } = await host().status();
    return instances.some(({ id, state }) => id === instance && state === 'busy');
  });

const sleeping = (seconds: number): number =>
  descendantsOf(host().pid).filter(({ command }) => command.includes(`sleep ${seconds}`)).length;

suite('cancellation', () => {
  before(async () => {
    const manifest = { name: 'one', instancesMax: 1, timeoutMs: 20_000, graceMs };
    await host().deploy({ manifest, 'handler.ts': source });
  });

  test('a cancelled call ends by its signal, and its instance goes on', async () => {
    const pid = await ask<number>('pid');
    const [instance] = await host().instancesOf('one');
    const called = host().call('one', { do: 'heed', tidyMs: 100 }, { requestId: 'c1' });
    await running(instance);
    const cancelledAt = performance.now();
    assert.equal(await cancel('c1'), 1);
    assert.equal((await called).error?.code, 'request.cancelled');
    // The next call waits for what the function still does: the function has said "one at a time".
    assert.deepEqual(await ask('heard'), ['AbortError', 'tidied']);
    assert.ok(performance.now() - cancelledAt < 10_000);
    assert.equal(await ask<number>('pid'), pid);
    assert.deepEqual(await host().instancesOf('one'), [instance]);
    assert.equal((await host().trace('c1')).error?.code, 'request.cancelled');
  });

  test('a call that waits is cancelled without ever running', async () => {
    const before = await ask<number>('started');
    const [instance] = await host().instancesOf('one');
    const first = host().call('one', { do: 'heed', tidyMs: 0 }, { requestId: 'c2' });
    await running(instance);
    const waiting = host().call('one', { do: 'heed', tidyMs: 0 }, { requestId: 'c3' });
    await waitFor('both are admitted', async () => (await host().status()).inFlight === 2);
    assert.equal(await cancel('c3'), 1);
    assert.equal((await waiting).error?.code, 'request.cancelled');
    assert.equal((await host().trace('c3')).dispatchedNs, undefined);
    assert.equal(await cancel('c2'), 1);
    assert.equal((await first).error?.code, 'request.cancelled');
    assert.equal(await ask('started'), before + 1);
  });

  test('a call whose time passes while it waits never runs', async () => {
    const before = await ask<number>('started');
    const [instance] = await host().instancesOf('one');
    const first = host().call('one', { do: 'heed', tidyMs: 0 }, { requestId: 'c4' });
    await running(instance);
    const headers = { 'Hatch-Timeout-Ms': '100' };
    const late = await host().call('one', { do: 'heed' }, { headers });
    assert.equal(late.error?.code, 'host.busy');
    assert.equal(await cancel('c4'), 1);
    await first;
    assert.equal(await ask('started'), before + 1);
  });

  test('what does not end in its grace is killed with all it started', async () => {
    await ask('well');
    const [instance] = await host().instancesOf('one');
    const headers = { 'Hatch-Timeout-Ms': '300' };
    const late = await host().call('one', { do: 'never', seconds: 4711 }, { headers });
    assert.equal(late.error?.code, 'function.timeout');
    assert.ok(sleeping(4711) > 0, 'it has its grace first');
    assert.deepEqual(await host().instancesOf('one'), [instance]);
    assert.equal(await ask('well'), 'well');
    assert.notDeepEqual(await host().instancesOf('one'), [instance]);
    assert.equal(sleeping(4711), 0);

    const [next] = await host().instancesOf('one');
    const called = host().call('one', { do: 'never', seconds: 4712 }, { requestId: 'c5' });
    await running(next);
    await waitFor('its child runs', () => sleeping(4712) > 0);
    assert.equal(await cancel('c5'), 1);
    assert.equal((await called).error?.code, 'request.cancelled');
    assert.equal(await ask('well'), 'well');
    assert.equal(sleeping(4712), 0);
  });

  test('a call without a reply subject runs, and can be cancelled too', async () => {
    const { instances } = await host().status();
    const served = instances.reduce((sum, { calls }) => sum + calls, 0);
    host().connection.publish('hatch.fn.one', '{"do":"well"}');
    await waitFor('it has run', async () => {
      const now = (await host().status()).instances;
      return now.reduce((sum, { calls }) => sum + calls, 0) > served;
    });
    assert.equal(await cancel('nobody'), 0);
    await sleep(0);
  });
});
