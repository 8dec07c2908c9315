import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  formatAddress,
  formatSubnet,
  parseAddress,
  parseSubnet,
} from '../../../host/network/subnet.ts';

const bytes = (length: number) =>
  fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 })), {
    minLength: length,
    maxLength: length,
  });

test('an address that is written and read again is the same, and as Node writes it', () => {
  fc.assert(
    fc.property(fc.oneof(bytes(4), bytes(16)), (octets) => {
      const text = formatAddress(Buffer.from(octets));
      assert.deepEqual([...(parseAddress(text) ?? [])], octets, text);
      if (octets.length === 16)
        assert.equal(new URL(`http://[${text}]/`).hostname, `[${text}]`, text);
    }),
  );
});

test('whatever Node takes for an address is one, and nothing else', () => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6(), fc.string()), (text) => {
      const isAddress = isIP(text) !== 0 && !text.includes('%');
      assert.equal(parseAddress(text) !== undefined, isAddress, text);
    }),
  );
});

test('IPv6 addresses that end as IPv4 ones', () => {
  const rewritten = (text: string) => formatAddress(parseAddress(text) ?? assert.fail(text));
  assert.equal(rewritten('::ffff:169.254.169.254'), '::ffff:a9fe:a9fe');
  assert.equal(rewritten('1:2:3:4:5:6:7.8.9.10'), '1:2:3:4:5:6:708:90a');
});

test('subnets have a length that fits, and nothing after it', () => {
  for (const text of ['10.0.0.0/8', '0.0.0.0/0', '::/0', 'fd00::/64', '192.0.2.128/25']) {
    const subnet = parseSubnet(text);
    assert.ok(subnet !== undefined, text);
    assert.equal(formatSubnet(subnet), text);
  }
  for (const text of ['10.0.0.1/8', '10.0.0.0/33', '::/129', '10.0.0.0/', '10.0.0.0/8/8', '10/8'])
    assert.equal(parseSubnet(text), undefined, text);
});
