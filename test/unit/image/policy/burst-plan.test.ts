import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { digestOf, type Digest } from '../../../../host/image/digest.ts';
import { planBurst, type ExpectedFunction } from '../../../../host/image/policy/burst-plan.ts';

const id = (name: string | number): Digest => digestOf(`layer ${name}`);
const layer = (name: string | number, sizeBytes: number) => ({ chainId: id(name), sizeBytes });

test('pins what most starts wait for per byte, and says what was left out', () => {
  const plan = planBurst(
    [
      { starts: 10, layers: [layer('large', 60)] },
      { starts: 5, layers: [layer('small', 10)] },
      { starts: 6, layers: [layer('middle', 20)] },
    ],
    60,
  );
  assert.deepEqual(plan, {
    pinned: [id('small'), id('middle')],
    pinnedBytes: 30,
    leftOut: [id('large')],
  });
});

test('counts a shared layer for all who share it, and once', () => {
  const base = layer('base', 50);
  const plan = planBurst(
    [
      { starts: 3, layers: [base, layer('a', 5)] },
      { starts: 4, layers: [base, layer('b', 5)] },
      { starts: 6, layers: [layer('alone', 50)] },
    ],
    60,
  );
  assert.deepEqual(plan.pinned, [id('base'), id('b'), id('a')]);
});

test('takes a large layer for the sake of the small ones on it', () => {
  const base = layer('base', 100);
  const many = Array.from({ length: 8 }, (_, n) => ({ starts: 5, layers: [base, layer(n, 1)] }));
  const plan = planBurst([...many, { starts: 6, layers: [layer('alone', 100)] }], 110);
  assert.equal(plan.pinned.length, 9);
  assert.equal(plan.pinned[0], id('base'));
});

test('pins nothing for a function that is not expected', () => {
  assert.deepEqual(planBurst([{ starts: 0, layers: [layer('a', 1)] }], 10).pinned, []);
});

/** Stacks that share layers from the bottom, as chain ids do. */
const expected: fc.Arbitrary<ExpectedFunction[]> = fc
  .array(
    fc.record({
      starts: fc.nat({ max: 50 }),
      path: fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 4 }),
    }),
    { maxLength: 12 },
  )
  .map((functions) =>
    functions.map(({ starts, path }) => ({
      starts,
      layers: path.map((_, depth) => {
        const name = path.slice(0, depth + 1).join('/');
        return layer(name, 1 + ((name.length * 7 + (path[depth] ?? 0) * 13) % 40));
      }),
    })),
  );

test('keeps within the capacity, fetches what is below first, wastes no room that would do', () => {
  fc.assert(
    fc.property(expected, fc.nat({ max: 200 }), (functions, capacityBytes) => {
      const plan = planBurst(functions, capacityBytes);
      const sizes = new Map<Digest, number>();
      const below = new Map<Digest, Digest>();
      for (const { starts, layers } of functions) {
        if (starts === 0) continue;
        for (const [depth, { chainId, sizeBytes }] of layers.entries()) {
          sizes.set(chainId, sizeBytes);
          const parent = layers[depth - 1];
          if (parent !== undefined) below.set(chainId, parent.chainId);
        }
      }
      const all = [...plan.pinned, ...plan.leftOut];
      assert.deepEqual(new Set(all), new Set(sizes.keys()));
      assert.equal(all.length, sizes.size);
      const bytes = plan.pinned.reduce((sum, one) => sum + (sizes.get(one) ?? NaN), 0);
      assert.equal(plan.pinnedBytes, bytes);
      assert.ok(bytes <= capacityBytes);
      for (const [index, one] of plan.pinned.entries()) {
        const parent = below.get(one);
        if (parent !== undefined) assert.ok(plan.pinned.slice(0, index).includes(parent));
      }
      for (const one of plan.leftOut) {
        const parent = below.get(one);
        const isNext = parent === undefined || plan.pinned.includes(parent);
        if (isNext) assert.ok(bytes + (sizes.get(one) ?? 0) > capacityBytes);
      }
    }),
  );
});
