import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { mock, test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { startsUnderWay } from '../../../host/base/starts-under-way.ts';
import type { NetworkAccess } from '../../../host/network/network.ts';
import { InstanceStarter } from '../../../host/pool/instance-starter.ts';
import type { SandboxParts } from '../../../host/sandbox/sandbox.ts';
import { isolationHere } from '../../../host/security/isolation.ts';
import { poolFunction } from '../../support/fake-pool.ts';

test('stocks are filled when a start is over, also one that failed', async (context) => {
  const connecting = Promise.withResolvers<NetworkAccess>();
  const starter = new InstanceStarter({
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
    connect: () => connecting.promise,
    onNotice: assert.fail,
  });
  mock.timers.enable({ apis: ['setTimeout'] });
  let nowMs = 1e6;
  context.mock.method(performance, 'now', () => nowMs);
  context.after(() => mock.timers.reset());
  const pass = async (ms: number): Promise<void> => {
    nowMs += ms;
    mock.timers.tick(ms);
    await turn();
  };

  const order = { passes: false, ahead: false, readAheadBytes: 0 };
  const start = starter.start(poolFunction('fn', { egress: ['443/tcp'] }), order);
  let isOver = false;
  void startsUnderWay.over().then(() => (isOver = true));
  await pass(5);
  assert.equal(isOver, false);
  connecting.reject(new HatchError('host.busy', 'No address is free.'));
  await assert.rejects(start, { code: 'host.busy' });
  await pass(5);
  await pass(5);
  assert.equal(isOver, true);
});
