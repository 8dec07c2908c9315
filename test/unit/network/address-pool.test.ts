import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  AddressPool,
  gatewayOf,
  type InstanceAddress,
} from '../../../host/network/address-pool.ts';
import { formatAddress, parseSubnet, type Subnet } from '../../../host/network/subnet.ts';

const ipv6 = subnet('fd00:1::/64');

function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  assert.ok(parsed !== undefined);
  return parsed;
}

test('the gateway is the first address, instances have those after it', () => {
  const subnets = { ipv4: subnet('10.10.0.0/24'), ipv6 };
  assert.equal(formatAddress(gatewayOf(subnets).ipv4), '10.10.0.1');
  const first = new AddressPool(subnets).take();
  assert.ok(first !== undefined);
  assert.equal(formatAddress(first.ipv4), '10.10.0.2');
  assert.equal(formatAddress(first.ipv6), 'fd00:1::2');
  assert.equal(first.mac.toString('hex'), '02480a0a0002');
});

test('no two have an address at one time; all are inside; none is lost', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 24, max: 29 }),
      fc.array(fc.boolean(), { maxLength: 600 }),
      (prefixLength, steps) => {
        const subnets = { ipv4: subnet(`10.10.0.0/${prefixLength}`), ipv6 };
        const capacity = 2 ** (32 - prefixLength) - 3;
        const pool = new AddressPool(subnets);
        const held: InstanceAddress[] = [];
        for (const isTaking of steps) {
          if (!isTaking) {
            const oldest = held.shift();
            if (oldest !== undefined) pool.release(oldest);
            continue;
          }
          const taken = pool.take();
          assert.equal(taken === undefined, held.length === capacity);
          if (taken === undefined) continue;
          assert.ok(taken.number >= 2 && taken.number <= capacity + 1);
          assert.ok(held.every(({ number }) => number !== taken.number));
          held.push(taken);
        }
      },
    ),
  );
});

test('what was given back last is given away last, and only once', () => {
  const pool = new AddressPool({ ipv4: subnet('10.10.0.0/29'), ipv6 });
  const all = [1, 2, 3, 4, 5].map(() => pool.take());
  assert.equal(pool.take(), undefined);
  const [a, b] = all;
  assert.ok(a !== undefined && b !== undefined);
  pool.release(b);
  pool.release(a);
  pool.release(a);
  assert.deepEqual([pool.take()?.number, pool.take()?.number], [b.number, a.number]);
  assert.equal(pool.take(), undefined);
});
