/** What every firewall driver promises, with packets that really flow: see firewall-driver.ts. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { AddressPool, type InstanceAddress } from '../../host/network/address-pool.ts';
import { Bridge } from '../../host/network/bridge.ts';
import { makePolicy, parseEgressRule, type EgressPolicy } from '../../host/network/egress.ts';
import type { FirewallDriver, FirewallOptions } from '../../host/network/firewall-driver.ts';
import { formatAddress, parseSubnet, type Subnet } from '../../host/network/subnet.ts';
import { outside, TestNetwork } from '../support/test-network.ts';

const bridgeName = 'hatch0';
const gateway = { 4: '10.10.0.1', 6: 'fd68:6174:6368::1' } as const;
const families = [4, 6] as const;

interface Attached {
  fd: number;
  address: InstanceAddress;
}

/** In a network namespace of the calling test file. */
export function firewallContract(open: (options: FirewallOptions) => FirewallDriver): void {
  let net: TestNetwork;
  let bridge: Bridge;
  let driver: FirewallDriver;
  let pool: AddressPool;
  const web = policyOf('443/tcp');
  const all = policyOf('0.0.0.0/0', '::/0');

  function attach(): Attached {
    const address = pool.take();
    assert.ok(address !== undefined);
    const fd = net.makeNamespace();
    assert.ok(bridge.attach(fd, address));
    return { fd, address };
  }

  function reaches(from: Attached, family: 4 | 6, port: number, protocol?: 'tcp' | 'udp'): boolean {
    const address = family === 4 ? outside.ipv4 : outside.ipv6;
    return net.reaches(from.fd, { address, port, ...(protocol && { protocol }) });
  }

  before(async () => {
    net = new TestNetwork();
    const subnets = { ipv4: subnet('10.10.0.0/24'), ipv6: subnet('fd68:6174:6368::/64') };
    pool = new AddressPool(subnets);
    const dropForeign = { ipv4: true, ipv6: true };
    driver = open({ bridge: bridgeName, subnets, dropForeign });
    await driver.open();
    bridge = Bridge.open({ name: bridgeName, subnets, alias: 'a test' });
    writeFileSync('/proc/sys/net/ipv4/ip_forward', '1');
    writeFileSync('/proc/sys/net/ipv6/conf/all/forwarding', '1');
    await driver.addPolicy(web);
    await driver.addPolicy(all);
    await net.serve(net.outsideFd, [80, 443]);
    await net.serve(net.hostFd, [80, 443]);
  });

  after(async () => {
    bridge.close();
    await driver.close();
    await net.close();
  });

  for (const family of families) {
    describe(`IPv${family}`, () => {
      test('who is not admitted reaches nothing', () => {
        const one = attach();
        assert.equal(reaches(one, family, 443), false);
      });

      test('what the policy lists is reached, with the host as source; the rest is not', () => {
        const one = attach();
        driver.admit(one.address, web);
        const [address, host] =
          family === 4 ? [outside.ipv4, outside.host4] : [outside.ipv6, outside.host6];
        assert.equal(net.ask(one.fd, { address, port: 443 }), host);
        assert.equal(reaches(one, family, 80), false);
        assert.equal(reaches(one, family, 443, 'udp'), false);
      });

      test('all of tcp and udp, when the policy says so', () => {
        const one = attach();
        driver.admit(one.address, all);
        assert.ok(reaches(one, family, 80));
        assert.ok(reaches(one, family, 80, 'udp'));
      });

      test('an open connection ends with the admission', () => {
        const one = attach();
        driver.admit(one.address, all);
        // The same two ports before and after: to the kernel it is one exchange.
        const target = family === 4 ? outside.ipv4 : `[${outside.ipv6}]`;
        const ask = (): string => net.runIn(one.fd, `${udpClient(target, family)} || true`).trim();
        assert.notEqual(ask(), '');
        driver.dismiss(one.address, all);
        assert.equal(ask(), '');
        assert.equal(reaches(one, family, 80), false);
      });

      test('neither the host, by any of its addresses, nor its loopback', async () => {
        const one = attach();
        driver.admit(one.address, all);
        const own = family === 4 ? outside.host4 : outside.host6;
        for (const address of [gateway[family], own])
          assert.equal(net.reaches(one.fd, { address, port: 80 }), false, address);
      });

      test('no other instance, in neither direction', async () => {
        const [one, other] = [attach(), attach()];
        driver.admit(one.address, all);
        driver.admit(other.address, all);
        await net.serve(other.fd, [80]);
        const address = formatAddress(family === 4 ? other.address.ipv4 : other.address.ipv6);
        assert.equal(net.reaches(one.fd, { address, port: 80 }), false);
        // Not even with its hardware address and a route.
        const hop = formatAddress(family === 4 ? one.address.ipv4 : one.address.ipv6);
        net.runIn(one.fd, `ip -${family} neigh replace ${address} lladdr ${macOf(other)} dev eth0`);
        assert.equal(net.reaches(one.fd, { address, port: 80 }), false);
        net.runIn(net.outsideFd, `ip -${family} route add ${hop} via ${hostOf(family)}`);
        assert.equal(net.reaches(net.outsideFd, { address: hop, port: 80 }), false, 'unasked');
      });

      test('no metadata service', () => {
        const one = attach();
        driver.admit(one.address, all);
        const address = family === 4 ? outside.metadata4 : outside.metadata6;
        assert.ok(reaches(one, family, 80));
        assert.equal(net.reaches(one.fd, { address, port: 80 }), false);
      });

      test('nothing under the address of another', () => {
        const [one, other] = [attach(), attach()];
        driver.admit(other.address, all);
        const ip = `ip -${family}`;
        const stolen = formatAddress(family === 4 ? other.address.ipv4 : other.address.ipv6);
        const length = family === 4 ? 24 : 64;
        net.runIn(
          one.fd,
          `${ip} addr flush dev eth0; ip link set eth0 address ${macOf(other)}
           ${ip} addr add ${stolen}/${length} dev eth0 ${family === 4 ? '' : 'nodad'}
           ${ip} route replace default via ${gateway[family]} dev eth0
           ${ip} neigh replace ${gateway[family]} lladdr 02:48:0a:0a:00:01 dev eth0`,
        );
        const sent = (): number =>
          Number(net.runIn(one.fd, "ip -s link show eth0 | tail -n 1 | awk '{ print $2 }'"));
        const before = sent();
        assert.equal(reaches(one, family, 80, 'udp'), false);
        assert.ok(sent() > before, 'it has sent something');
        assert.ok(reaches(other, family, 80, 'udp'), 'its owner is not disturbed');
      });

      test('the machine does not become a router for others', () => {
        const other = net.makeNamespace();
        const [lan, own] = family === 4 ? ['198.51.100', '.'] : ['2001:db8:2:', ':'];
        const options = family === 4 ? '24' : '64';
        const nodad = family === 4 ? '' : 'nodad';
        const name = `lan${family}`;
        net.run(`ip link add ${name} type veth peer name eth0 netns ${net.pathOf(other)}
          ip -${family} addr add ${lan}${own}1/${options} dev ${name} ${nodad}
          ip link set ${name} up`);
        net.runIn(
          other,
          `ip -${family} addr add ${lan}${own}2/${options} dev eth0 ${nodad}
          ip link set eth0 up; ip -${family} route add default via ${lan}${own}1`,
        );
        net.runIn(net.outsideFd, `ip -${family} route add ${lan}${own}2 via ${hostOf(family)}`);
        assert.ok(net.reaches(other, { address: outsideOf(family), port: 80 }) === false);
      });
    });
  }

  test('a policy that nobody has can be removed, and made anew', async () => {
    const policy = policyOf('8080/tcp');
    await driver.addPolicy(policy);
    await driver.removePolicy(policy);
    const one = attach();
    assert.throws(() => driver.admit(one.address, policy));
    await driver.addPolicy(policy);
    driver.admit(one.address, policy);
    driver.dismiss(one.address, policy);
    await driver.removePolicy(policy);
  });

  test('opened again it has replaced what was there; closed it has left nothing', async () => {
    const names = (): string =>
      net.run('nft list ruleset; iptables-save; ip6tables-save').replaceAll(/\[\d+:\d+\]/g, '');
    const one = attach();
    driver.admit(one.address, web);
    await driver.open();
    assert.equal(reaches(one, 4, 443), false);
    await driver.addPolicy(web);
    driver.admit(one.address, web);
    assert.ok(reaches(one, 4, 443));
    await driver.close();
    await driver.close();
    assert.doesNotMatch(names(), /hatch/);
    await driver.open();
  });

  test('rules of others stay, and cannot open what is closed', async () => {
    net.run('iptables -I FORWARD 1 -j ACCEPT; ip6tables -I FORWARD 1 -j ACCEPT');
    net.run('iptables -N OTHERS; iptables -A OTHERS -j RETURN; iptables -I INPUT 1 -j ACCEPT');
    const one = attach();
    for (const family of families) assert.equal(reaches(one, family, 443), false);
    assert.equal(net.reaches(one.fd, { address: gateway[4], port: 80 }), false);
    await driver.open();
    assert.match(net.run('iptables-save'), /-A OTHERS -j RETURN/);
    assert.match(net.run('iptables-save'), /-A FORWARD -j ACCEPT/);
  });
}

function policyOf(...texts: string[]): EgressPolicy {
  const rules = texts.map((text) => {
    const rule = parseEgressRule(text);
    assert.ok(rule !== undefined, text);
    return rule;
  });
  return makePolicy({ rules, addresses: new Map(), nameservers: [] });
}

function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  assert.ok(parsed !== undefined);
  return parsed;
}

function macOf({ address }: Attached): string {
  return address.mac.toString('hex').replaceAll(/(..)(?!$)/g, '$1:');
}

function hostOf(family: 4 | 6): string {
  return family === 4 ? outside.host4 : outside.host6;
}

function outsideOf(family: 4 | 6): string {
  return family === 4 ? outside.ipv4 : outside.ipv6;
}

/** Asks from a port that is always the same. */
function udpClient(target: string, family: 4 | 6): string {
  const address = target.replaceAll(/[[\]]/g, '');
  const program = `
    const socket = require('node:dgram').createSocket('udp${family}');
    socket.on('message', (answer) => { console.log(String(answer)); process.exit(); });
    socket.bind(40000, () => socket.send('?', 80, '${address}'));
    setTimeout(() => process.exit(), 700);`;
  return `${process.execPath} -e "${program.replaceAll('\n', ' ')}"`;
}
