import assert from 'node:assert/strict';
import { setImmediate as settled } from 'node:timers/promises';
import { test } from 'node:test';
import fc from 'fast-check';
import { StartQueue } from '../../../host/pool/start-queue.ts';

/** Asks for turns, and notes whose began, in order. */
function ask(queue: StartQueue, names: string): string[] {
  const began: string[] = [];
  for (const name of names) void queue.turn(name).then(() => began.push(name));
  return began;
}

test('the start of another function waits for none of those that wait', async () => {
  const queue = new StartQueue({ max: 4, maxQueued: 2 });
  const began = ask(queue, 'aaaaaab');
  await settled();
  assert.equal(began.join(''), 'aab');
  queue.done('a');
  await settled();
  assert.equal(began.join(''), 'aab', 'nor does one of those begin beside it');
});

test('a start is told when it goes before others, and not when it is alone or next', async () => {
  const queue = new StartQueue({ max: 3, maxQueued: 1 });
  assert.deepEqual(await queue.turn('a'), { passes: false });
  const next = queue.turn('a');
  assert.deepEqual(await queue.turn('b'), { passes: true });
  for (const name of 'ab') queue.done(name);
  assert.deepEqual(await next, { passes: false });
});

test('functions take turns; each keeps its own order', async () => {
  const queue = new StartQueue({ max: 1, maxQueued: 1 });
  const began = ask(queue, 'aaabbc');
  for (let turns = 0; turns < 6; turns++) {
    await settled();
    queue.done(began.at(-1) ?? '');
  }
  assert.equal(began.join(''), 'aabcab');
  assert.ok(queue.isEmpty);
});

test('those who wait have their turn before one more goes first', async () => {
  const queue = new StartQueue({ max: 3, maxQueued: 1 });
  const began = ask(queue, 'aaabc');
  await settled();
  assert.equal(began.join(''), 'ab');
  for (const name of 'ba') queue.done(name);
  await settled();
  assert.equal(began.join(''), 'aba');
  void queue.turn('d').then(() => began.push('d'));
  await settled();
  assert.equal(began.join(''), 'abad');
});

test('whatever is asked for and done, all get their turn, within the limit', async () => {
  const asked = fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { maxLength: 30 });
  const limits = fc.record({
    max: fc.integer({ min: 2, max: 6 }),
    maxQueued: fc.integer({ min: 1, max: 2 }),
  });
  const cases = fc.asyncProperty(asked, limits, fc.infiniteStream(fc.nat()), async (...given) => {
    const [names, { max, maxQueued }, choices] = given;
    const queue = new StartQueue({ max, maxQueued });
    const underWay: string[] = [];
    let begun = 0;
    for (const name of names)
      void queue.turn(name).then(() => {
        underWay.push(name);
        begun++;
      });
    for (;;) {
      await settled();
      assert.ok(underWay.length <= max);
      if (underWay.length === 0) break;
      const at = (choices.next().value ?? 0) % underWay.length;
      queue.done(underWay.splice(at, 1)[0] ?? '');
    }
    assert.equal(begun, names.length);
    assert.ok(queue.isEmpty);
  });
  await fc.assert(cases, { numRuns: 100 });
});
