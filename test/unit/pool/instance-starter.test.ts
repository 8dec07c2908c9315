import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { startsUnderWay } from '../../../host/base/starts-under-way.ts';
import type { NetworkAccess } from '../../../host/network/network.ts';
import { InstanceStarter } from '../../../host/pool/instance-starter.ts';
import type { SandboxParts } from '../../../host/sandbox/sandbox.ts';
import { isolationHere } from '../../../host/security/isolation.ts';
import { poolFunction } from '../../support/fake-pool.ts';

const order = { passes: false, ahead: false, readAheadBytes: 0 };
const connected = poolFunction('fn', { egress: ['443/tcp'] });

test('stocks are filled when a start is over, also one that failed', async (context) => {
  // They would wait for some time only.
  let nowMs = 1e6;
  context.mock.method(performance, 'now', () => nowMs);
  const connecting = Promise.withResolvers<NetworkAccess>();
  const start = starterThat(() => connecting.promise).start(connected, order);
  let isOver = false;
  const over = startsUnderWay.over().then(() => (isOver = true));
  await sleep(30);
  assert.equal(isOver, false);
  connecting.reject(new HatchError('host.busy', 'No address is free.'));
  await assert.rejects(start, { code: 'host.busy' });
  nowMs += 10;
  await over;
});

test('what died in a start is no reason to fail, and gives its network back', async () => {
  const access = { released: 0, release: () => access.released++ };
  let tries = 0;
  const starter = starterThat(
    () => Promise.resolve(access as unknown as NetworkAccess),
    () => Promise.reject(new HatchError('host.start_failed', `EPIPE ${++tries}`)),
  );
  const failure = { code: 'host.start_failed', message: 'EPIPE 2' };
  await assert.rejects(starter.start(connected, order), failure);
  assert.equal(access.released, 2);
});

test('a network that cannot be had is asked for once', async () => {
  let tries = 0;
  const starter = starterThat(() =>
    Promise.reject(new HatchError('host.start_failed', `Cannot resolve, ${++tries}`)),
  );
  const failure = { code: 'host.start_failed', message: 'Cannot resolve, 1' };
  await assert.rejects(starter.start(connected, order), failure);
});

function starterThat(
  connect: () => Promise<NetworkAccess>,
  serving: () => Promise<never> = () => assert.fail(),
): InstanceStarter {
  return new InstanceStarter({
    // It does not come to them.
    parts: {} as SandboxParts,
    zygotes: {
      serving,
      missingBytes: () => 0,
      memoryBytes: 0,
      endUnused: () => [],
      onReplaced: () => undefined,
    },
    refillsPerSecond: 1,
    isolation: isolationHere(),
    connect,
    onNotice: assert.fail,
  });
}
