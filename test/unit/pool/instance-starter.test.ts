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

test('a start that failed through no fault of the function is made once more', async () => {
  let starts = 0;
  const starter = starterThat(() => {
    starts++;
    return Promise.reject(new HatchError('host.start_failed', `EPIPE ${starts}`));
  });
  const failure = { code: 'host.start_failed', message: 'EPIPE 2' };
  await assert.rejects(starter.start(connected, order), failure);
  assert.equal(starts, 2);
});

function starterThat(connect: () => Promise<NetworkAccess>): InstanceStarter {
  return new InstanceStarter({
    // It does not come to them.
    parts: {} as SandboxParts,
    zygotes: {
      serving: () => assert.fail(),
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
