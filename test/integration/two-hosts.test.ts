/** Two hosts in one network namespace, each with a bridge and a firewall of its own. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import type { HostConfig } from '../../host/config.ts';
import { dialer } from '../support/dialer.ts';
import { waitFor } from '../support/host-processes.ts';
import { startHost, type TestHost } from '../support/host.ts';
import {
  assertNetworkUntouched,
  leaveMachineNetwork,
  outside,
  TestNetwork,
} from '../support/test-network.ts';

const families = [4, 6] as const;
const target = { 4: outside.ipv4, 6: outside.ipv6 } as const;
const own = { 4: outside.host4, 6: outside.host6 } as const;
const lan = {
  4: { router: '198.51.100.1', client: '198.51.100.2', length: 24 },
  6: { router: '2001:db8:2::1', client: '2001:db8:2::2', length: 64 },
} as const;
const second = {
  networkBridge: 'hatch1',
  networkIpv4: '10.20.0.0/24',
  networkIpv6: 'fd68:6174:6369::/64',
};
leaveMachineNetwork();
let net: TestNetwork;
let client: number;
let one: TestHost;
let other: TestHost;

before(async () => {
  net = new TestNetwork();
  await net.serve(net.outsideFd, [80, 443]);
  client = openLan();
  forward('1');
  await waitFor('the others are routed', () => reachedFromLan().every(Boolean));
  forward('0');
  one = await open({ firewall: 'nftables' });
  other = await open({ firewall: 'iptables', ...second });
});
after(async () => {
  await one?.stop();
  await other?.stop();
  await net.close();
});

test('the functions of both reach what is outside', async () => {
  for (const host of [one, other]) await assertReaches(host);
});

test('they do not reach each other, nor the host by the other’s bridge', async () => {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const)
    for (const family of families) {
      const port = 8080 + family;
      const address = await ask<string>(to, { listen: port, family });
      assert.equal(await ask(to, { address, port }), address, 'it listens');
      assert.equal(await ask(from, { address, port }), 'timeout');
      const gateway = address.replace(/[^.:]+$/, '1');
      assert.equal(await ask(from, { address: gateway, port: 80 }), 'timeout');
    }
});

test('a bridge is one host’s', async () => {
  const third = await startHost({ config: { ...second, firewall: 'nftables' } });
  try {
    const refused = { code: 'host.config_invalid', message: /Bridge "hatch1" is another host's/ };
    await assert.rejects(third.deploy(dialer('dials', ['443/tcp'])), refused);
  } finally {
    await third.stop();
  }
  await assertReaches(other);
});

test('when the first stops, or is killed, the second goes on, and is no router', async () => {
  assertNoRouter();
  await one.stop({ keepState: true });
  await assertReaches(other);
  assertNoRouter();
  one = await startHost({ config: one.config });
  await assertReaches(one);
  await one.kill();
  await assertReaches(other);
  one = await startHost({ config: one.config });
  for (const host of [one, other]) await assertReaches(host);
  assertNoRouter();
});

test('the last that ends restores what was before the first', async () => {
  await one.kill();
  await other.stop({ keepState: true });
  // The killed one is not ended before its successor has looked.
  assert.equal(forwarding(), '1');
  one = await startHost({ config: one.config });
  other = await startHost({ config: other.config });
  await assertReaches(other);
  await one.stop({ keepState: true });
  assert.equal(forwarding(), '1');
  await other.stop({ keepState: true });
  await assertNetworkUntouched();
});

async function open(config: Partial<HostConfig>): Promise<TestHost> {
  const host = await startHost({ config });
  await host.deploy(dialer('dials', ['0.0.0.0/0', '::/0']));
  return host;
}

async function ask<T>(host: TestHost, event: object): Promise<T> {
  return (await host.call('dials', { protocol: 'tcp', ...event })).json<T>();
}

async function assertReaches(host: TestHost): Promise<void> {
  for (const family of families)
    assert.equal(await ask(host, { address: target[family], port: 443 }), own[family]);
}

/** Others beside the hosts, who have a route by this machine and one back. */
function openLan(): number {
  const fd = net.makeNamespace();
  net.run(`ip link add lan0 type veth peer name eth0 netns ${net.pathOf(fd)}; ip link set lan0 up`);
  net.runIn(fd, 'ip link set eth0 up');
  for (const family of families) {
    const { router, client: address, length } = lan[family];
    const nodad = family === 4 ? '' : 'nodad';
    net.run(`ip -${family} addr add ${router}/${length} dev lan0 ${nodad}`);
    net.runIn(
      fd,
      `ip -${family} addr add ${address}/${length} dev eth0 ${nodad}
      ip -${family} route add default via ${router}`,
    );
    net.runIn(net.outsideFd, `ip -${family} route add ${address} via ${own[family]}`);
  }
  return fd;
}

function assertNoRouter(): void {
  assert.equal(forwarding(), '1');
  for (const reached of reachedFromLan()) assert.equal(reached, false);
}

function reachedFromLan(): boolean[] {
  return families.map((family) => net.reaches(client, { address: target[family], port: 80 }));
}

function forward(value: '0' | '1'): void {
  for (const setting of ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'])
    writeFileSync(`/proc/sys/net/${setting}`, value);
}

function forwarding(): string {
  return readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8').trim();
}
