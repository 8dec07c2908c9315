/** Rows 7.1 to 7.4, by what functions and test hosts see, for one firewall driver. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { HostConfig } from '../../host/config.ts';
import { landlockAbi } from '../../host/sys/kernel-features.ts';
import { portRulesAbi } from '../../host/sys/landlock.ts';
import { processesOf } from '../support/containers.ts';
import { dialer } from '../support/dialer.ts';
import { startHost, type TestHost } from '../support/host.ts';
import { assertNetworkUntouched, outside, TestNetwork } from '../support/test-network.ts';

const families = [4, 6] as const;
const gateway = { 4: '10.10.0.1', 6: 'fd68:6174:6368::1' } as const;
const own = { 4: outside.host4, 6: outside.host6 } as const;
const target = { 4: outside.ipv4, 6: outside.ipv6 } as const;
const metadata = { 4: outside.metadata4, 6: outside.metadata6 } as const;

/** Landlock says no at once, a firewall lets them wait. */
const unlistedPort = (landlockAbi() ?? 0) >= portRulesAbi ? 'EACCES' : 'timeout';

/** Runs in a network namespace of the calling test file. */
export function networkConformance(firewall: HostConfig['firewall']): void {
  let net: TestNetwork;
  let host: TestHost;

  before(async () => {
    net = new TestNetwork();
    await net.serve(net.outsideFd, [53, 80, 443]);
    await net.serve(net.hostFd, [80, 443]);
    host = await startHost({ config: { firewall, nameservers: outside.ipv4 } });
    await host.deploy(dialer('web', ['443/tcp']));
    await host.deploy(dialer('placed', ['443/tcp', '198.18.0.1:80/tcp', '[fd00:1::1]:80/tcp']));
    await host.deploy(dialer('open', ['0.0.0.0/0', '::/0']));
    await host.deploy(dialer('other', ['0.0.0.0/0', '::/0']));
  });

  after(async () => {
    await host.stop();
    await net.close();
  });

  const ask = async <T>(name: string, event: object): Promise<T> =>
    (await host.call(name, event)).json<T>();
  const dial = (name: string, address: string, port: number, protocol = 'tcp'): Promise<string> =>
    ask(name, { address, port, protocol });

  test('7.1 a bridge, a pair of links, addresses and default routes', async () => {
    const [id = ''] = await host.instancesOf('web');
    const functionPid = processesOf(host, id)[1]?.hostPid;
    const inside = (command: string): string =>
      net.run(`nsenter --net=/proc/${functionPid}/ns/net ${command}`);
    assert.match(inside('ip -4 addr show eth0'), /inet 10\.10\.0\.\d+\/24/);
    assert.match(inside('ip -6 addr show eth0'), /inet6 fd68:6174:6368::[\da-f]+\/64/);
    assert.match(inside('ip route'), /default via 10\.10\.0\.1 dev eth0/);
    assert.match(inside('ip -6 route'), /default via fd68:6174:6368::1 dev eth0/);
    const bridge = net.run('ip addr show hatch0');
    assert.match(bridge, /inet 10\.10\.0\.1\/24/);
    assert.match(bridge, /inet6 fd68:6174:6368::1\/64/);
  });

  for (const family of families) {
    const row = (number: string): string => (family === 4 ? number : `7.4 ${number}`);

    test(`${row('7.1')} what leaves has the host's address, and the reply comes back`, async () => {
      assert.equal(await dial('web', target[family], 443), own[family]);
    });

    test(`${row('7.2')} only the listed port answers, others do not`, async () => {
      assert.equal(await dial('web', target[family], 443), own[family]);
      assert.equal(await dial('web', target[family], 80), unlistedPort);
      assert.equal(await dial('placed', target[family], 443), own[family]);
      assert.equal(await dial('placed', target[family], 80), 'timeout');
      assert.equal(await dial('web', target[family], 443, 'udp'), 'timeout');
      assert.equal(await dial('open', target[family], 80), own[family]);
    });

    test(`${row('7.3')} neither the host's services nor metadata addresses`, async () => {
      for (const address of [gateway[family], own[family], metadata[family]])
        assert.equal(await dial('open', address, 80), 'timeout', address);
    });

    test(`${row('7.3')} no other instance`, async () => {
      const address = await ask<string>('other', { listen: 8080, family });
      assert.notEqual(await dial('other', address, 8080), 'timeout', 'it listens');
      assert.notEqual(await dial('open', address, 8080), address);
      const unreached = await dial('open', address, 8080);
      assert.match(unreached, /^(?:timeout|EHOSTUNREACH)$/);
    });
  }

  test('a function without a list has a loopback and nothing else', async () => {
    await host.deploy(dialer('closed', 'none'));
    assert.deepEqual(await ask('closed', { interfaces: true }), ['lo']);
    assert.equal(await dial('closed', target[4], 443), 'ENETUNREACH');
  });

  test('nameservers are for those that may go anywhere', async () => {
    assert.equal(await ask('web', { read: '/etc/resolv.conf' }), `nameserver ${outside.ipv4}\n`);
    assert.equal(await dial('web', outside.ipv4, 53, 'udp'), outside.host4);
    assert.equal(await dial('web', outside.ipv6, 53, 'udp'), 'timeout');
    await host.deploy(dialer('narrow', [`${outside.ipv4}:80/tcp`]));
    assert.equal(await ask('narrow', { read: '/etc/resolv.conf' }), '');
    assert.equal(await dial('narrow', outside.ipv4, 80), outside.host4);
    assert.equal(await dial('narrow', outside.ipv4, 53, 'udp'), 'timeout');
  });

  test('a parked container joins the network of its function', async () => {
    const { startRecord } = await host.deploy(dialer('late', ['443/tcp']));
    assert.equal(startRecord.path, 'parked');
    assert.ok(startRecord.steps.some(({ name }) => name === 'egress'));
    assert.equal(await dial('late', target[4], 443), own[4]);
  });

  test('one with a Node.js of its own has the same network', async () => {
    const fn = dialer('alone', ['443/tcp', '127.0.0.1:8080/tcp']);
    const { startRecord } = await host.deploy(fn, { isolation: 'exec' });
    assert.equal(startRecord.path, 'booted');
    for (const family of families) {
      assert.equal(await dial('alone', target[family], 443), own[family]);
      assert.equal(await dial('alone', target[family], 80), unlistedPort);
      assert.equal(await dial('alone', target[family], 8080), 'timeout');
    }
  });

  test('a port that no entry has is out of reach in its own loopback too', async () => {
    await host.deploy(dialer('inward', ['443/tcp', '127.0.0.1:8080/tcp']));
    for (const name of ['web', 'inward']) {
      const address = await ask<string>(name, { listen: 8080, family: 4 });
      const answer = name === 'inward' || unlistedPort === 'timeout' ? address : unlistedPort;
      assert.equal(await dial(name, '127.0.0.1', 8080), answer, name);
    }
  });

  test('a host that was killed leaves nothing that the next one does not remove', async () => {
    await host.kill();
    assert.match(rules(net), /hatch0/);
    host = await startHost({ config: host.config });
    await host.deploy(dialer('web', ['443/tcp']));
    assert.equal(await dial('web', target[6], 443), own[6]);
    await host.stop({ keepState: true });
    await assertNothingLeft(host);
    host = await startHost({ config: host.config });
  });

  describe('an executed instance', () => {
    test('has the same network', async () => {
      await host.stop();
      host = await startHost({ config: { firewall, fork: 'never', nameservers: outside.ipv4 } });
      await host.deploy(dialer('web', ['443/tcp']));
      assert.equal(await dial('web', target[4], 443), own[4]);
      assert.equal(await dial('web', target[6], 80), unlistedPort);
      assert.equal(await ask('web', { read: '/etc/resolv.conf' }), `nameserver ${outside.ipv4}\n`);
      await host.stop({ keepState: true });
      await assertNothingLeft(host);
    });
  });
}

function rules(net: TestNetwork): string {
  return net.run('nft list ruleset; iptables-save; ip6tables-save; ip -o link show type bridge');
}

async function assertNothingLeft(host: TestHost): Promise<void> {
  await assertNetworkUntouched();
  assert.equal(existsSync(join(host.stateDirectory, 'network.json')), false);
}
