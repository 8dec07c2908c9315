import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../../host/base/errors.ts';
import { digestOf } from '../../../host/image/digest.ts';
import type { Digest } from '../../../host/image/digest.ts';
import { LayerCache } from '../../../host/image/layer-cache.ts';
import {
  evictionPolicyNames,
  makeEvictionPolicy,
} from '../../../host/image/policy/eviction-policy.ts';
import type { EvictionPolicyName } from '../../../host/image/policy/eviction-policy.ts';
import type { CachedLayer, Lease } from '../../../host/image/layer-cache.ts';

const ids = Array.from({ length: 5 }, (_, i) => digestOf(`layer ${i}`));
function idOf(index: number): Digest {
  const id = ids[index];
  assert.ok(id !== undefined);
  return id;
}

function makeCache(capacityBytes: number, policy: EvictionPolicyName = 'lru') {
  const evicted: Digest[] = [];
  const cache = new LayerCache<CachedLayer>({
    capacityBytes,
    policy: makeEvictionPolicy(policy),
    onEvict: ({ chainId }) => evicted.push(chainId),
  });
  const add = (index: number, sizeBytes = 10) => cache.add({ chainId: idOf(index), sizeBytes });
  return { cache, evicted, add };
}

describe('LayerCache', () => {
  test('evicts the least recently used first, as many as are needed', () => {
    const { cache, evicted, add } = makeCache(30);
    add(0);
    add(1);
    add(2);
    cache.touch(idOf(0));
    add(3, 15);
    assert.deepEqual(evicted, [idOf(1), idOf(2)]);
    assert.deepEqual(
      cache.layers().map(({ chainId }) => chainId),
      [idOf(0), idOf(3)],
    );
    assert.equal(cache.usedBytes, 25);
  });

  test('counts a lease as a use when it ends', () => {
    const { cache, evicted, add } = makeCache(20);
    add(0);
    add(1);
    const lease = cache.acquire([idOf(0)]);
    lease.release();
    add(2);
    assert.deepEqual(evicted, [idOf(1)]);
  });

  test('refuses what does not fit beside held layers, and evicts nothing then', () => {
    const { cache, evicted, add } = makeCache(30);
    add(0);
    add(1);
    cache.pin(idOf(0));
    assert.throws(
      () => add(2, 21),
      (error) => {
        assert.ok(error instanceof HatchError);
        assert.equal(error.code, 'image.cache_full');
        assert.deepEqual(error.details, {
          sizeBytes: 21,
          heldBytes: 10,
          usedBytes: 20,
          capacityBytes: 30,
        });
        return true;
      },
    );
    assert.deepEqual(evicted, []);
    assert.ok(!cache.has(idOf(2)));
    add(2, 20);
    assert.deepEqual(evicted, [idOf(1)]);
  });

  test('leases all or none', () => {
    const { cache, add } = makeCache(30);
    add(0);
    assert.throws(() => cache.acquire([idOf(0), idOf(1)]), { code: 'image.not_found' });
    assert.equal(cache.heldBytes, 0);
  });

  test('releases once, however often release is called', () => {
    const { cache, add } = makeCache(30);
    add(0);
    const one = cache.acquire([idOf(0)]);
    const two = cache.acquire([idOf(0), idOf(0)]);
    one.release();
    one.release();
    one[Symbol.dispose]();
    assert.equal(cache.heldBytes, 10);
    two.release();
    assert.equal(cache.heldBytes, 0);
  });

  test('neither removes nor forgets a held layer', () => {
    const { cache, add } = makeCache(30);
    add(0);
    cache.pin(idOf(0));
    const lease = cache.acquire([idOf(0)]);
    assert.equal(cache.remove(idOf(0)), false);
    cache.unpin(idOf(0));
    assert.equal(cache.remove(idOf(0)), false);
    lease.release();
    assert.equal(cache.remove(idOf(0)), true);
    assert.equal(cache.remove(idOf(0)), false);
  });

  test('after a restart with less capacity keeps the pinned and evicts the oldest', () => {
    const { cache, evicted } = makeCache(20);
    for (const index of [0, 1, 2, 3])
      cache.restore({ chainId: idOf(index), sizeBytes: 10 }, { pinned: index === 0 });
    cache.evictExcess();
    assert.deepEqual(evicted, [idOf(1), idOf(2)]);
    assert.equal(cache.heldBytes, 10);
  });
});

type Action =
  | { do: 'add'; index: number; sizeBytes: number }
  | { do: 'touch' | 'pin' | 'unpin' | 'remove'; index: number }
  | { do: 'acquire'; indexes: number[] }
  | { do: 'release'; which: number };

const index = fc.nat({ max: ids.length - 1 });
const actions: fc.Arbitrary<Action[]> = fc.array(
  fc.oneof(
    fc.record({ do: fc.constant('add' as const), index, sizeBytes: fc.nat({ max: 40 }) }),
    fc.record({ do: fc.constantFrom('touch', 'pin', 'unpin', 'remove'), index }),
    fc.record({
      do: fc.constant('acquire' as const),
      indexes: fc.array(index, { minLength: 1, maxLength: 3 }),
    }),
    fc.record({ do: fc.constant('release' as const), which: fc.nat({ max: 20 }) }),
  ),
  // Long runs on few layers, so that leases and pins of one layer meet.
  { minLength: 30, maxLength: 100, size: 'max' },
);

interface ModelLayer {
  id: Digest;
  sizeBytes: number;
  pinned: boolean;
  leases: number;
  /** Of GDSF, at the last use. */
  clock: number;
}

/** What the cache must do, written down as plainly as possible. */
class Model {
  /** From least to most recently used. */
  order: ModelLayer[] = [];
  evicted: Digest[] = [];
  readonly capacityBytes: number;
  readonly policy: EvictionPolicyName;
  #clock = 0;
  readonly #uses = new Map<Digest, number>();

  constructor(capacityBytes: number, policy: EvictionPolicyName) {
    this.capacityBytes = capacityBytes;
    this.policy = policy;
  }

  /** The next to go first. */
  evictable(): ModelLayer[] {
    const all = this.order.filter((layer) => !isHeld(layer));
    return this.policy === 'lru' ? all : all.sort((a, b) => this.worth(a) - this.worth(b));
  }

  worth({ id, sizeBytes, clock }: ModelLayer): number {
    return clock + ((this.#uses.get(id) ?? 0) * (20 + sizeBytes / 100_000)) / sizeBytes;
  }

  count(id: Digest): void {
    this.#uses.set(id, (this.#uses.get(id) ?? 0) + 1);
  }

  makeRoom(missingBytes: number): void {
    const going: ModelLayer[] = [];
    const bytes = () => going.reduce((sum, layer) => sum + layer.sizeBytes, 0);
    for (const layer of this.evictable()) if (bytes() < missingBytes) going.push(layer);
    if (this.policy === 'gdsf') {
      for (const layer of going.toReversed())
        if (bytes() - layer.sizeBytes >= missingBytes) going.splice(going.indexOf(layer), 1);
      this.#clock = Math.max(this.#clock, ...going.map((layer) => this.worth(layer)));
    }
    this.order = this.order.filter((layer) => !going.includes(layer));
    this.evicted.push(...going.map(({ id }) => id));
  }

  find(id: Digest) {
    return this.order.find((layer) => layer.id === id);
  }

  /** It may go from now on. */
  letGo(id: Digest): void {
    const layer = this.find(id);
    if (layer === undefined || isHeld(layer)) return;
    layer.clock = this.#clock;
    this.order = [...this.order.filter((other) => other !== layer), layer];
  }

  use(id: Digest): void {
    this.count(id);
    this.letGo(id);
  }

  bytes(only: (layer: ModelLayer) => boolean = () => true): number {
    return this.order.filter(only).reduce((sum, layer) => sum + layer.sizeBytes, 0);
  }

  add(id: Digest, sizeBytes: number): boolean {
    if (this.find(id) !== undefined) {
      this.use(id);
      return true;
    }
    if (this.bytes(isHeld) + sizeBytes > this.capacityBytes) return false;
    this.makeRoom(this.bytes() + sizeBytes - this.capacityBytes);
    this.order.push({ id, sizeBytes, pinned: false, leases: 0, clock: 0 });
    this.use(id);
    return true;
  }
}

function isHeld(layer: { pinned: boolean; leases: number }): boolean {
  return layer.pinned || layer.leases > 0;
}

describe('LayerCache, whatever is done to it', () => {
  for (const policy of evictionPolicyNames) {
    test(`with ${policy} does what the model does, evicts nothing held, keeps its capacity`, () => {
      fc.assert(
        fc.property(actions, fc.integer({ min: 1, max: 120 }), (all, capacityBytes) => {
          const { cache, evicted } = makeCache(capacityBytes, policy);
          const model = new Model(capacityBytes, policy);
          const leases: { lease: Lease<CachedLayer>; ids: Digest[]; released: boolean }[] = [];
          for (const action of all) {
            const evictedBefore = evicted.length;
            const held = model.order.filter(isHeld).map(({ id }) => id);
            perform(action, { cache, model, leases });
            for (const id of evicted.slice(evictedBefore)) assert.ok(!held.includes(id));
            assert.deepEqual(evicted, model.evicted);
            assert.equal(cache.usedBytes, model.bytes());
            assert.equal(cache.heldBytes, model.bytes(isHeld));
            assert.ok(cache.usedBytes <= capacityBytes);
            const evictable = model.evictable().map(({ id }) => id);
            const order = cache.layers().map(({ chainId }) => chainId);
            assert.deepEqual(order.slice(0, evictable.length), evictable);
          }
        }),
        { numRuns: 300 },
      );
    });
  }
});

function perform(
  action: Action,
  on: {
    cache: LayerCache<CachedLayer>;
    model: Model;
    leases: { lease: Lease<CachedLayer>; ids: Digest[]; released: boolean }[];
  },
): void {
  const { cache, model, leases } = on;
  switch (action.do) {
    case 'add': {
      // An empty layer counts one byte.
      const sizeBytes = Math.max(action.sizeBytes, 1);
      const fits = model.add(idOf(action.index), sizeBytes);
      const add = () => cache.add({ chainId: idOf(action.index), sizeBytes: action.sizeBytes });
      if (fits) add();
      else assert.throws(add, { code: 'image.cache_full' });
      return;
    }
    case 'acquire': {
      const wanted = action.indexes.map(idOf);
      if (wanted.some((id) => model.find(id) === undefined)) {
        assert.throws(() => cache.acquire(wanted), { code: 'image.not_found' });
        return;
      }
      const lease = cache.acquire(wanted);
      leases.push({ lease, ids: wanted, released: false });
      for (const id of wanted) {
        model.count(id);
        const layer = model.find(id);
        if (layer !== undefined) layer.leases += 1;
      }
      return;
    }
    case 'release': {
      const entry = leases[action.which % Math.max(leases.length, 1)];
      entry?.lease.release();
      if (entry === undefined || entry.released) return;
      entry.released = true;
      for (const id of entry.ids) {
        const layer = model.find(id);
        assert.ok(layer !== undefined, 'a leased layer is still there');
        layer.leases -= 1;
        model.letGo(id);
      }
      return;
    }
    case 'remove': {
      const layer = model.find(idOf(action.index));
      const goes = layer !== undefined && !isHeld(layer);
      assert.equal(cache.remove(idOf(action.index)), goes);
      if (goes) model.order = model.order.filter((other) => other !== layer);
      return;
    }
    case 'touch':
    case 'pin':
    case 'unpin':
      performOnOne(action.do, idOf(action.index), on);
  }
}

function performOnOne(
  verb: 'touch' | 'pin' | 'unpin',
  id: Digest,
  { cache, model }: { cache: LayerCache<CachedLayer>; model: Model },
): void {
  const layer = model.find(id);
  if (verb === 'unpin') {
    cache.unpin(id);
    if (layer?.pinned !== true) return;
    layer.pinned = false;
    model.letGo(id);
    return;
  }
  if (layer === undefined) {
    assert.throws(() => cache[verb](id), { code: 'image.not_found' });
    return;
  }
  cache[verb](id);
  if (verb === 'pin') layer.pinned = true;
  else model.use(id);
}
