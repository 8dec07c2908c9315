import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nameserversIn } from '../../../host/network/nameservers.ts';

test('nameservers that are not on the machine, three at most', () => {
  const text = `# nameserver 192.0.2.9
search example.com
nameserver 127.0.0.53
nameserver ::1
nameserver 192.0.2.1
nameserver\t2001:db8::1
nameserver fe80::1%eth0
nameserver nonsense
nameserver 192.0.2.2
nameserver 192.0.2.3
`;
  assert.deepEqual(nameserversIn(text), ['192.0.2.1', '2001:db8::1', '192.0.2.2']);
  assert.deepEqual(nameserversIn(''), []);
});
