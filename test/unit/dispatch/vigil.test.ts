import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Vigil } from '../../../host/dispatch/vigil.ts';

/** How often the loop was kept awake for each of `calls` calls that are never answered in time. */
async function vigils(vigil: Vigil, fn: object, calls: number): Promise<number[]> {
  const counts: number[] = [];
  for (let call = 0; call < calls; call++) {
    let looks = 0;
    vigil.keep(fn, () => {
      looks++;
      return true;
    });
    await turn();
    counts.push(looks);
  }
  return counts;
}

test('the loop is awake until the call is answered, and no longer', async () => {
  const vigil = new Vigil({ awakeNs: 10e9 });
  let looks = 0;
  vigil.keep({}, () => ++looks < 5);
  for (let count = 0; count < 20; count++) await turn();
  assert.equal(looks, 5);
});

test('a call that takes too long is not waited for', async () => {
  const vigil = new Vigil({ awakeNs: 1e6 });
  const startedMs = performance.now();
  let lookedMs = startedMs;
  vigil.keep({}, () => {
    lookedMs = performance.now();
    return true;
  });
  while (performance.now() - startedMs < 20) await turn();
  assert.ok(lookedMs - startedMs < 15, `${lookedMs - startedMs} ms awake`);
});

test('after each failure twice as many calls go without', async () => {
  const counts = await vigils(new Vigil({ awakeNs: 0 }), {}, 11);
  assert.deepEqual(counts, [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]);
});

test('a call that is answered in time makes good again, for its own function only', async () => {
  const vigil = new Vigil({ awakeNs: 0 });
  const [quick, slow] = [{}, {}];
  await vigils(vigil, quick, 2);
  await vigils(vigil, slow, 2);
  vigil.keep(quick, () => false);
  await turn();
  assert.deepEqual(await vigils(vigil, quick, 3), [1, 0, 1]);
  assert.deepEqual(await vigils(vigil, slow, 4), [1, 0, 0, 1]);
});
