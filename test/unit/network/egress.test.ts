import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  hostsFile,
  makePolicy,
  namesIn,
  neverReachable,
  parseEgressRule,
  resolversFile,
  tcpPortsOf,
  type EgressRule,
  type Permit,
} from '../../../host/network/egress.ts';
import { formatSubnet, parseSubnet } from '../../../host/network/subnet.ts';

const rulesOf = (...texts: string[]): EgressRule[] =>
  texts.map((text) => {
    const rule = parseEgressRule(text);
    assert.ok(rule !== undefined, text);
    return rule;
  });

const policyOf = (
  texts: string[],
  options: { addresses?: [string, string[]][]; nameservers?: string[] } = {},
) =>
  makePolicy({
    rules: rulesOf(...texts),
    addresses: new Map(options.addresses ?? []),
    nameservers: options.nameservers ?? [],
  });

const shown = ({ to = 'anywhere', protocol, port }: Permit): string =>
  `${to} ${protocol} ${port ?? 'any'}`;

test('what a rule may look like', () => {
  const show = (text: string): string => {
    const [rule] = rulesOf(text);
    const { to, service } = rule ?? assert.fail();
    const where = to === 'anywhere' ? to : 'name' in to ? to.name : formatSubnet(to.subnet);
    return `${where} ${service === undefined ? 'all' : `${service.port}/${service.protocol}`}`;
  };
  assert.equal(show('443/tcp'), 'anywhere 443/tcp');
  assert.equal(show('10.0.0.0/8'), '10.0.0.0/8 all');
  assert.equal(show('10.1.2.3:5432/tcp'), '10.1.2.3/32 5432/tcp');
  assert.equal(show('2001:db8::/32'), '2001:db8::/32 all');
  assert.equal(show('[2001:db8::/32]:53/udp'), '2001:db8::/32 53/udp');
  assert.equal(show('API.Example.com:443/tcp'), 'api.example.com 443/tcp');
  assert.equal(show('example.com'), 'example.com all');
});

test('what it may not look like', () => {
  const wrong =
    `443 0/tcp 65536/tcp 443/icmp :443/tcp /tcp 0443443/tcp 10.0.0.1/8 10.0.0.0/33 localhost
    2001:db8::1:443/tcp [10.0.0.0/8 [example.com]:1/tcp -a.example.com a..b 10.0.0.256 1.2.3 a.b:c
    *.a.b fe80::1%eth0 ${'a'.repeat(64)}.com a.com;drop a.com}`.split(/\s+/);
  wrong.push('', '443/tcp ', 'x.y\n1.2', 'a.com drop');
  for (const text of wrong) assert.equal(parseEgressRule(text), undefined, JSON.stringify(text));
});

test('a port without a place is for both protocols, a place for its own', () => {
  const { permits } = policyOf(['443/tcp', '192.0.2.0/24']);
  assert.deepEqual(
    permits.map((permit) => `${permit.family}: ${shown(permit)}`),
    [
      '4: anywhere tcp 443',
      '6: anywhere tcp 443',
      '4: 192.0.2.0/24 tcp any',
      '4: 192.0.2.0/24 udp any',
    ],
  );
});

test('a name is what it was resolved to, for the firewall and inside', () => {
  const addresses: [string, string[]][] = [['a.example', ['192.0.2.1', '2001:db8::1']]];
  const policy = policyOf(['a.example:443/tcp', 'a.example:80/tcp'], { addresses });
  assert.deepEqual(namesIn(rulesOf('b.example', 'a.example', 'b.example')), [
    'a.example',
    'b.example',
  ]);
  assert.deepEqual(policy.permits.map(shown), [
    '192.0.2.1/32 tcp 443',
    '2001:db8::1/128 tcp 443',
    '192.0.2.1/32 tcp 80',
    '2001:db8::1/128 tcp 80',
  ]);
  assert.equal(
    hostsFile(policy),
    '127.0.0.1 localhost\n::1 localhost\n192.0.2.1 a.example\n2001:db8::1 a.example\n',
  );
});

test('only who may go anywhere may ask a nameserver', () => {
  const nameservers = ['192.0.2.53'];
  const wide = policyOf(['443/tcp'], { nameservers });
  assert.deepEqual(wide.dns.map(shown), ['192.0.2.53/32 udp 53', '192.0.2.53/32 tcp 53']);
  assert.equal(resolversFile(wide), 'nameserver 192.0.2.53\n');
  const narrow = policyOf(['10.0.0.0/8', 'a.example'], { nameservers });
  assert.deepEqual([narrow.dns, resolversFile(narrow)], [[], '']);
});

test('TCP goes to the ports that are listed, or to all', () => {
  const nameservers = ['192.0.2.53'];
  const portsOf = (...texts: string[]) => tcpPortsOf(policyOf(texts, { nameservers }));
  assert.deepEqual(portsOf('443/tcp', '10.0.0.0/8:5432/tcp', '443/tcp'), [53, 443, 5432]);
  assert.deepEqual(portsOf('10.0.0.1:5432/tcp', '10.0.0.1:123/udp'), [5432]);
  assert.deepEqual(portsOf('10.0.0.1:123/udp'), []);
  assert.equal(portsOf('443/tcp', '10.0.0.0/8'), undefined);
});

test('equal policies have equal ids', () => {
  const at = (address: string) =>
    policyOf(['a.example'], { addresses: [['a.example', [address]]] });
  assert.equal(at('192.0.2.1').id, at('192.0.2.1').id);
  assert.notEqual(at('192.0.2.1').id, at('192.0.2.2').id);
  assert.match(at('192.0.2.1').id, /^[0-9a-f]{12}$/);
});

test('what nobody reaches is spelled as the kernel spells it', () => {
  for (const text of [...neverReachable[4], ...neverReachable[6]])
    assert.ok(parseSubnet(text) !== undefined, text);
});
