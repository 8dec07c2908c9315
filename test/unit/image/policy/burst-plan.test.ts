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

test('an image is taken for what stands on it, once, and with all of its layers', () => {
  const image = [layer('below', 30), layer('image', 10)];
  const library = [layer('library', 20)];
  const on = (name: string, starts: number, images: ExpectedFunction['images'] = []) => ({
    starts,
    layers: [layer(name, 1)],
    images,
  });
  const functions = [on('a', 5, [image]), on('b', 4, [image, library]), on('c', 9)];
  const all = planBurst(functions, 100);
  assert.deepEqual(all.pinnedBytes, 63);
  assert.deepEqual(all.pinned[0], id('c'));
  assert.deepEqual(all.leftOut, []);
  // The library alone would fit, but nobody could start.
  const less = planBurst(functions, 45);
  assert.deepEqual(less.pinned, ['c', 'below', 'image', 'a'].map(id));
  // A bundle that two have in common, of which one needs no image.
  const same = [on('x', 1, [image]), on('x', 9)];
  assert.deepEqual(planBurst(same, 10).pinned, [id('x')]);
  assert.equal(planBurst(same, 41).pinnedBytes, 41);
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

test('with images too: within the capacity, each layer once, after all that it needs', () => {
  const withImages = fc
    .tuple(expected, expected, fc.array(fc.nat({ max: 5 }), { maxLength: 12 }))
    .map(([functions, images, choices]) =>
      functions.map((fn, index) => {
        const chains = choices.slice(index, index + 2).map((at) => images[at]?.layers ?? []);
        const bundle = fn.layers.map((one, depth) => layer(`fn ${index} ${depth}`, one.sizeBytes));
        return { starts: fn.starts, layers: bundle, images: chains };
      }),
    );
  fc.assert(
    fc.property(withImages, fc.nat({ max: 300 }), (functions, capacityBytes) => {
      const { pinned, pinnedBytes, leftOut } = planBurst(functions, capacityBytes);
      const sizes = new Map<Digest, number>();
      for (const { layers, images } of functions)
        for (const one of [...layers, ...images.flat()]) sizes.set(one.chainId, one.sizeBytes);
      assert.equal(new Set([...pinned, ...leftOut]).size, pinned.length + leftOut.length);
      const bytes = pinned.reduce((sum, one) => sum + (sizes.get(one) ?? NaN), 0);
      assert.equal(pinnedBytes, bytes);
      assert.ok(bytes <= capacityBytes);
      for (const { layers, images } of functions) {
        const own = layers.map((one) => pinned.indexOf(one.chainId));
        const needed = images.flat().map((one) => pinned.indexOf(one.chainId));
        for (const at of own.filter((index) => index >= 0))
          assert.ok(needed.every((index) => index >= 0 && index < at));
      }
    }),
  );
});

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
