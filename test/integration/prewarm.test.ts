/** What adaptive keep-alive foresees is really there, in containers and in time. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { openBenchEngine } from '../bench/engines.ts';
import { Scratch } from '../bench/scratch.ts';
import { assertNothingLeft, takeInventory } from '../support/leak-check.ts';

const inventory = takeInventory({ prefix: 'hatch-bench' });
after(() => assertNothingLeft(inventory));

test('a function with a beat is let go between its calls, and there for the next', async () => {
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  const engine = { name: 'prewarm', index: 8, parked: 0, scratch, opened };
  const { worker } = await openBenchEngine(engine);
  // A call every 15 minutes, of 600 ms each: the third shows the beat.
  const keepAlive = { policy: 'adaptive', minuteMs: 600 } as const;
  const { starts, between } = await worker.ask('beat', { calls: 5, periodMs: 9000, keepAlive });
  assert.deepEqual(starts, ['forked', 'forked', 'forked', 'hot', 'hot']);
  assert.deepEqual(between, [1, 1, 0, 0, 0]);
});
