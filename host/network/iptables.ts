/**
 * The firewall in chains of our own, by iptables and ip6tables. What is refused is dropped in the
 * table `mangle`, which comes before `filter`: no rule of anybody else's there can let it through.
 * What is allowed is accepted in `filter`, which Docker for one sets to drop by default. Policies
 * are chains, and an instance is admitted by the set that leads from its address to one.
 */
import { isErrno } from '../sys/errors.ts';
import {
  addToSet,
  createSet,
  deleteFromSet,
  destroySet,
  setNames,
  type IpSet,
} from '../sys/ip-set.ts';
import { Netlink } from '../sys/netlink.ts';
import type { InstanceAddress } from './address-pool.ts';
import { runProgram } from './command.ts';
import { neverReachable, type EgressPolicy, type Permit } from './egress.ts';
import type { FirewallDriver, FirewallOptions } from './firewall-driver.ts';
import { formatSubnet } from './subnet.ts';

type Family = 4 | 6;
const families: readonly Family[] = [4, 6];
const lockSeconds = '10';

export class IptablesDriver implements FirewallDriver {
  readonly name = 'iptables';
  readonly #options: FirewallOptions;
  #netlink: Netlink | undefined;

  constructor(options: FirewallOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    await this.close();
    this.#netlink = new Netlink('netfilter');
    for (const family of families) await restore(family, baseRules(this.#options, family));
  }

  async addPolicy(policy: EgressPolicy): Promise<void> {
    for (const family of families) {
      createUnlessThere(this.#openNetlink(), this.#setOf(policy, family));
      await restore(family, policyRules(this.#options.bridge, policy, family));
    }
  }

  async removePolicy({ id }: Pick<EgressPolicy, 'id'>): Promise<void> {
    const { outbound, policy } = chainsOf(this.#options.bridge);
    for (const family of families) {
      const set = this.#setOf({ id }, family);
      await restore(family, [
        '*mangle',
        `-D ${outbound} -m set --match-set ${set.name} src -g ${policy(id)}`,
        `-F ${policy(id)}`,
        `-X ${policy(id)}`,
        'COMMIT',
      ]);
      destroySet(this.#openNetlink(), set.name);
    }
  }

  admit(address: InstanceAddress, policy: Pick<EgressPolicy, 'id'>): void {
    addToSet(this.#openNetlink(), this.#setOf(policy, 4), address.ipv4);
    addToSet(this.#openNetlink(), this.#setOf(policy, 6), address.ipv6);
  }

  dismiss(address: InstanceAddress, policy: Pick<EgressPolicy, 'id'>): void {
    deleteFromSet(this.#openNetlink(), this.#setOf(policy, 4), address.ipv4);
    deleteFromSet(this.#openNetlink(), this.#setOf(policy, 6), address.ipv6);
  }

  async close(): Promise<void> {
    const netlink = this.#netlink ?? new Netlink('netfilter');
    this.#netlink = undefined;
    try {
      for (const family of families) await removeRules(family, this.#options.bridge);
      const ours = setNames(netlink).filter((name) => name.startsWith(`${this.#options.bridge}-`));
      for (const name of ours) destroySet(netlink, name);
    } finally {
      netlink.close();
    }
  }

  #setOf({ id }: Pick<EgressPolicy, 'id'>, family: Family): IpSet {
    return { name: `${this.#options.bridge}-${id}-${family}`, family };
  }

  #openNetlink(): Netlink {
    if (this.#netlink === undefined) throw new TypeError('The firewall is not open');
    return this.#netlink;
  }
}

function chainsOf(bridge: string) {
  return {
    input: `${bridge}-in`,
    forward: `${bridge}-forward`,
    outbound: `${bridge}-out`,
    inbound: `${bridge}-back`,
    accept: `${bridge}-accept`,
    source: `${bridge}-source`,
    policy: (id: string) => `${bridge}-${id}`,
  };
}

/** A file for iptables-restore(8). Chains that are there already are emptied by it. */
function baseRules({ bridge, subnets, dropForeign }: FirewallOptions, family: Family): string[] {
  const { input, forward, outbound, inbound, accept, source } = chainsOf(bridge);
  const subnet = formatSubnet(family === 4 ? subnets.ipv4 : subnets.ipv6);
  const isForeignDropped = family === 4 ? dropForeign.ipv4 : dropForeign.ipv6;
  return [
    '*mangle',
    ...[input, forward, outbound, inbound].map((chain) => `:${chain} - [0:0]`),
    `-A ${input} -i ${bridge} -j DROP`,
    `-A ${forward} -i ${bridge} -g ${outbound}`,
    `-A ${forward} -o ${bridge} -g ${inbound}`,
    ...(isForeignDropped ? [`-A ${forward} -j DROP`] : []),
    `-A ${outbound} -o ${bridge} -j DROP`,
    `-A ${outbound} -m conntrack --ctstate INVALID,DNAT -j DROP`,
    // Policies go in between.
    `-A ${outbound} -j DROP`,
    `-A ${inbound} -m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT`,
    // Errors, such as a packet that was too big.
    `-A ${inbound} -m conntrack --ctstate RELATED -j ACCEPT`,
    `-A ${inbound} -j DROP`,
    `-I INPUT 1 -j ${input}`,
    `-I FORWARD 1 -j ${forward}`,
    'COMMIT',
    '*filter',
    `:${accept} - [0:0]`,
    `-A ${accept} -i ${bridge} -j ACCEPT`,
    `-A ${accept} -o ${bridge} -j ACCEPT`,
    `-I FORWARD 1 -j ${accept}`,
    'COMMIT',
    '*nat',
    `:${source} - [0:0]`,
    `-A ${source} -s ${subnet} ! -o ${bridge} -j MASQUERADE`,
    `-I POSTROUTING 1 -j ${source}`,
    'COMMIT',
  ];
}

function policyRules(bridge: string, policy: EgressPolicy, family: Family): string[] {
  const chains = chainsOf(bridge);
  const chain = chains.policy(policy.id);
  const set = `${bridge}-${policy.id}-${family}`;
  // The two rules that go before it drop what nobody may do.
  const position = 3;
  return [
    '*mangle',
    `:${chain} - [0:0]`,
    ...policy.dns.filter(isOf(family)).map((permit) => `-A ${chain} ${matchOf(permit)} -j ACCEPT`),
    ...neverReachable[family].map((subnet) => `-A ${chain} -d ${subnet} -j DROP`),
    ...policy.permits
      .filter(isOf(family))
      .map((permit) => `-A ${chain} ${matchOf(permit)} -j ACCEPT`),
    `-A ${chain} -j DROP`,
    `-I ${chains.outbound} ${position} -m set --match-set ${set} src -g ${chain}`,
    'COMMIT',
  ];
}

function isOf(family: Family): (permit: Permit) => boolean {
  return (permit) => permit.family === family;
}

function matchOf({ to, protocol, port }: Permit): string {
  const destination = to === undefined ? '' : `-d ${to} `;
  const service = port === undefined ? '' : ` --dport ${port}`;
  return `${destination}-p ${protocol}${service}`;
}

/** All of ours, found by their names. */
async function removeRules(family: Family, bridge: string): Promise<void> {
  const saved = await runProgram([programOf(family, '-save')]);
  const target = new RegExp(` (?:-j|-g) ${bridge}-`);
  // What is in our own chains goes with them.
  const isJump = (line: string): boolean =>
    line.startsWith('-A ') && !line.startsWith(`-A ${bridge}-`) && target.test(line);
  const lines: string[] = [];
  let chains: string[] = [];
  for (const line of saved.split('\n')) {
    const chain = line.startsWith(`:${bridge}-`) ? line.slice(1).split(' ')[0] : undefined;
    if (chain !== undefined) chains.push(chain);
    if (line.startsWith('*')) lines.push(line);
    else if (isJump(line)) lines.push(line.replace('-A', '-D'));
    else if (line === 'COMMIT') {
      lines.push(...chains.map((one) => `-F ${one}`), ...chains.map((one) => `-X ${one}`), line);
      chains = [];
    }
  }
  if (lines.some((line) => line.startsWith('-'))) await restore(family, lines);
}

async function restore(family: Family, lines: readonly string[]): Promise<void> {
  const command = programOf(family, '-restore');
  await runProgram([command, '--noflush', '-w', lockSeconds], `${lines.join('\n')}\n`);
}

/** An attempt to add the policy that failed has left it, with nobody in it. */
function createUnlessThere(netlink: Netlink, set: IpSet): void {
  try {
    createSet(netlink, set);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}

function programOf(family: Family, which: '-save' | '-restore'): string {
  return `${family === 4 ? 'iptables' : 'ip6tables'}${which}`;
}
