/**
 * 6.2: knowing the functions of an expected burst, compute the layers by demand, prefetch and pin
 * them within the capacity; the hit ratio beats plain LRU. On a real registry's log.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { digestOf } from '../../host/image/digest.ts';
import type { Pull } from '../sim/layer-trace.ts';
import { simulateLayers } from '../sim/layers.ts';

let hits: Map<string, number>;
before(() => {
  const { rows } = simulateLayers(readLog(), { window: 200, progress: () => undefined });
  hits = new Map(rows.map(({ name, objectHits }) => [name, objectHits]));
});

function readLog(): Pull[] {
  const text = readFileSync(join(import.meta.dirname, '6.2-dal09-pulls.txt'), 'utf8').trim();
  const lines = text.split('\n').filter((line) => !line.startsWith('#'));
  return lines.map((line) => {
    const [seconds, layer = '', bytes] = line.split(' ');
    return { timeMs: Number(seconds) * 1000, digest: digestOf(layer), sizeBytes: Number(bytes) };
  });
}

function hitsOf(name: string): number {
  const value = hits.get(name);
  assert.ok(value !== undefined, `a row "${name}"`);
  return value;
}

test('6.2 plain LRU hits as often as published for this log, so pulls are counted alike', () => {
  assert.deepEqual(['lru@1', 'lru@5', 'lru@20'].map(hitsOf), [15.4, 39.48, 52.51]);
});

test('6.2 with 5 % of the bytes the default hits half, prefetch and pins nine tenths', () => {
  assert.ok(hitsOf('default@5') >= 50);
  assert.ok(hitsOf('prefetch+pin@5') >= 90);
});

test('6.2 at each capacity knowing more is worth more', () => {
  for (const percent of [1, 5, 20]) {
    const order = ['lru', 'default', 'pin', 'prefetch+pin'].map((one) => `${one}@${percent}`);
    for (const [index, name] of order.slice(1).entries())
      assert.ok(hitsOf(name) > hitsOf(order[index] ?? ''), `${name} hits more`);
  }
});

test('6.2 a schedule that comes late, or is a quarter wrong, still beats all without one', () => {
  for (const percent of [1, 5, 20])
    for (const kind of ['late', 'rough'])
      assert.ok(hitsOf(`prefetch+pin-${kind}@${percent}`) > hitsOf(`belady@${percent}`));
});
