/** What every firewall driver promises when its programs fail, are killed, or run side by side. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { makePolicy, type EgressPolicy, type Permit } from '../../host/network/egress.ts';
import type { FirewallDriver, FirewallOptions } from '../../host/network/firewall-driver.ts';
import { parseSubnet, type Subnet } from '../../host/network/subnet.ts';

const rounds = 3;
const killedAfterMsMax = 30;

/** In a network namespace of the calling test file, where nobody else has rules. */
export function firewallFaults(open: (options: FirewallOptions) => FirewallDriver): void {
  const web = policyOf(443);
  const mail = policyOf(25);

  describe('rules are there once', () => {
    afterEach(async () => {
      for (const options of [first, second]) await open(options).close();
      assert.deepEqual(rules(), []);
    });

    test('when setting up failed half-way and is tried again', async () => {
      const expected = await rulesOf(open(first), [web]);
      const broken = { ...first.subnets, ipv6: { ...first.subnets.ipv6, prefixLength: 200 } };
      await assert.rejects(open({ ...first, subnets: broken }).open());
      const driver = open(first);
      await driver.open();
      await driver.addPolicy(web);
      assert.deepEqual(rules(), expected);
    });

    test('when a policy could be made known to one protocol only, and is again', async () => {
      const expected = await rulesOf(open(first), [mail, web]);
      const driver = open(first);
      await driver.open();
      await driver.addPolicy(mail);
      const broken: Permit = { family: 6, to: 'nonsense', protocol: 'tcp', port: 443 };
      await assert.rejects(driver.addPolicy({ ...web, permits: [...web.permits, broken] }));
      await driver.addPolicy(web);
      assert.deepEqual(rules(), expected);
      await driver.removePolicy(web);
      assert.deepEqual(
        rules().filter((line) => line.includes(web.id)),
        [],
      );
    });

    test('when a policy is made known that is known', async () => {
      const driver = open(first);
      const expected = await rulesOf(driver, [web]);
      await driver.open();
      await driver.addPolicy(web);
      await driver.addPolicy(web);
      assert.deepEqual(rules(), expected);
    });

    test('when programs are killed at any time', async () => {
      const expected = await rulesOf(open(first), [web, mail]);
      const driver = open(first);
      let killed = 0;
      for (let round = 0; round < rounds; round++) {
        const steps = [
          () => driver.open(),
          () => driver.addPolicy(web),
          () => driver.addPolicy(mail),
        ];
        for (const step of steps) {
          const killing = new AbortController();
          const done = killPrograms(killing.signal);
          await step().catch(() => undefined);
          killing.abort();
          killed += await done;
          await step();
        }
        assert.deepEqual(rules(), expected, `round ${round}`);
      }
      assert.ok(killed > 0, 'some were killed');
    });

    test('when two hosts set up, change and close at once', async () => {
      const drivers = [open(first), open(second)];
      const expected = [
        ...(await rulesOf(open(first), [web, mail])),
        ...(await rulesOf(open(second), [web, mail])),
      ].toSorted();
      for (let round = 0; round < rounds; round++) {
        await Promise.all(
          drivers.map(async (driver) => {
            await driver.open();
            await driver.addPolicy(web);
            await driver.removePolicy(web);
            await driver.addPolicy(web);
            await driver.addPolicy(mail);
          }),
        );
        assert.deepEqual(rules(), expected, `round ${round}`);
        if (round % 2 === 1) await Promise.all(drivers.map((driver) => driver.close()));
      }
    });
  });
}

const dropForeign = { ipv4: true, ipv6: true };
const first: FirewallOptions = {
  bridge: 'hatch1',
  subnets: { ipv4: subnet('10.11.0.0/24'), ipv6: subnet('fd68:6174:6301::/64') },
  dropForeign,
};
const second: FirewallOptions = {
  bridge: 'hatch2',
  subnets: { ipv4: subnet('10.12.0.0/24'), ipv6: subnet('fd68:6174:6302::/64') },
  dropForeign,
};

/** What is there after a driver has set up undisturbed. It is closed again. */
async function rulesOf(driver: FirewallDriver, policies: EgressPolicy[]): Promise<string[]> {
  await driver.open();
  for (const policy of policies) await driver.addPolicy(policy);
  const expected = rules();
  assert.notDeepEqual(expected, []);
  await driver.close();
  return expected;
}

/** Of both hosts, without order and counters. */
function rules(): string[] {
  const show = 'nft list ruleset; iptables-save; ip6tables-save';
  return execFileSync('bash', ['-ec', `exec 2>&-; ${show}`], { encoding: 'utf8' })
    .replaceAll(/\[\d+:\d+\]|counter packets \d+ bytes \d+/g, '')
    .split('\n')
    .filter((line) => /hatch[12]/.test(line))
    .toSorted();
}

/** Kills what this process runs, each after another while; how many it were. */
async function killPrograms(signal: AbortSignal): Promise<number> {
  let killed = 0;
  while (!signal.aborted) {
    await sleep(Math.random() * killedAfterMsMax, undefined, { signal }).catch(() => undefined);
    const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8');
    for (const pid of children.split(' ').map(Number).filter(Boolean)) {
      const command = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
      if (!/^(nft|ip6?tables|xtables)/.test(command)) continue;
      process.kill(pid, 'SIGKILL');
      killed++;
    }
  }
  return killed;
}

function policyOf(port: number): EgressPolicy {
  const rules = [{ to: 'anywhere', service: { port, protocol: 'tcp' } }] as const;
  return makePolicy({ rules: [...rules], addresses: new Map(), nameservers: [] });
}

function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  assert.ok(parsed !== undefined);
  return parsed;
}
