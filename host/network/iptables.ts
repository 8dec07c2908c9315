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
import { bridgePrefix, type FirewallDriver, type FirewallOptions } from './firewall-driver.ts';
import { formatSubnet } from './subnet.ts';

type Family = 4 | 6;
const families: readonly Family[] = [4, 6];
const lockSeconds = '10';

export class IptablesDriver implements FirewallDriver {
  readonly name = 'iptables';
  readonly #options: FirewallOptions;
  /** Of the policies that somebody may be admitted to. */
  readonly #policyIds = new Set<string>();
  #netlink: Netlink | undefined;

  constructor(options: FirewallOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const { bridge } = this.#options;
    this.#policyIds.clear();
    this.#netlink ??= new Netlink('netfilter');
    for (const family of families) {
      const present = await readTables(family, bridge);
      await restore(family, replaceTables(present, baseTables(this.#options, family)));
    }
    destroySets(this.#netlink, bridge);
  }

  async addPolicy(policy: EgressPolicy): Promise<void> {
    this.#policyIds.add(policy.id);
    try {
      for (const family of families) {
        createUnlessThere(this.#openNetlink(), this.#setOf(policy, family));
        await this.#writePolicy(family, policy.id, policyRules(policy, family));
      }
    } catch (error) {
      // What stays when this fails too is of no use to anybody, and replaced by the next attempt.
      await this.removePolicy(policy).catch(() => undefined);
      throw error;
    }
  }

  async removePolicy({ id }: Pick<EgressPolicy, 'id'>): Promise<void> {
    this.#policyIds.delete(id);
    for (const family of families) {
      await this.#writePolicy(family, id, undefined);
      destroyIfThere(this.#openNetlink(), this.#setOf({ id }, family).name);
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
    const { bridge } = this.#options;
    const netlink = this.#netlink ?? new Netlink('netfilter');
    this.#netlink = undefined;
    this.#policyIds.clear();
    try {
      for (const family of families) {
        const present = await readTables(family, bridge);
        if (present.length > 0) await restore(family, replaceTables(present, []));
      }
      destroySets(netlink, bridge);
    } finally {
      netlink.close();
    }
  }

  /**
   * A policy's chain (undefined: none) and the chain that leads to all of them, each as a whole:
   * what comes of it is the same however often it is tried and whatever was there.
   */
  async #writePolicy(family: Family, id: string, rules: string[] | undefined): Promise<void> {
    const { admitted, policy } = chainsOf(this.#options.bridge);
    const ways = [...this.#policyIds].map((each) => {
      const set = this.#setOf({ id: each }, family).name;
      return `-A ${admitted} -m set --match-set ${set} src -g ${policy(each)}`;
    });
    await restore(family, [
      '*mangle',
      ...declare([admitted, policy(id)]),
      ...(rules ?? []).map((rule) => `-A ${policy(id)} ${rule}`),
      ...ways,
      `-A ${admitted} -j DROP`,
      ...(rules === undefined ? [`-X ${policy(id)}`] : []),
      'COMMIT',
    ]);
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
    admitted: `${bridge}-admitted`,
    inbound: `${bridge}-back`,
    accept: `${bridge}-accept`,
    source: `${bridge}-source`,
    policy: (id: string) => `${bridge}-${id}`,
  };
}

/** Of one table: our chains, empty, and the rules to add to them and to those of others. */
interface Table {
  name: string;
  chains: string[];
  rules: string[];
}

function baseTables({ bridge, subnets, dropForeign }: FirewallOptions, family: Family): Table[] {
  const { input, forward, outbound, admitted, inbound, accept, source } = chainsOf(bridge);
  const subnet = formatSubnet(family === 4 ? subnets.ipv4 : subnets.ipv6);
  const isForeignDropped = family === 4 ? dropForeign.ipv4 : dropForeign.ipv6;
  const mangle: string[] = [
    `-A ${input} -i ${bridge} -j DROP`,
    `-A ${forward} -i ${bridge} -g ${outbound}`,
    `-A ${forward} -o ${bridge} -g ${inbound}`,
    // Another host's rules judge what is of its bridge.
    `-A ${forward} -i ${bridgePrefix}+ -j RETURN`,
    `-A ${forward} -o ${bridgePrefix}+ -j RETURN`,
    ...(isForeignDropped ? [`-A ${forward} -j DROP`] : []),
    `-A ${outbound} -o ${bridge} -j DROP`,
    `-A ${outbound} -m conntrack --ctstate INVALID,DNAT -j DROP`,
    `-A ${outbound} -g ${admitted}`,
    `-A ${admitted} -j DROP`,
    `-A ${inbound} -m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT`,
    // Errors, such as a packet that was too big.
    `-A ${inbound} -m conntrack --ctstate RELATED -j ACCEPT`,
    `-A ${inbound} -j DROP`,
    `-I INPUT 1 -j ${input}`,
    `-I FORWARD 1 -j ${forward}`,
  ];
  const filter = [
    `-A ${accept} -i ${bridge} -j ACCEPT`,
    `-A ${accept} -o ${bridge} -j ACCEPT`,
    `-I FORWARD 1 -j ${accept}`,
  ];
  const nat = [
    `-A ${source} -s ${subnet} ! -o ${bridge} -j MASQUERADE`,
    `-I POSTROUTING 1 -j ${source}`,
  ];
  return [
    { name: 'mangle', chains: [input, forward, outbound, admitted, inbound], rules: mangle },
    { name: 'filter', chains: [accept], rules: filter },
    { name: 'nat', chains: [source], rules: nat },
  ];
}

/** Without `-A` and the chain. */
function policyRules(policy: EgressPolicy, family: Family): string[] {
  return [
    ...policy.dns.filter(isOf(family)).map((permit) => `${matchOf(permit)} -j ACCEPT`),
    ...neverReachable[family].map((subnet) => `-d ${subnet} -j DROP`),
    ...policy.permits.filter(isOf(family)).map((permit) => `${matchOf(permit)} -j ACCEPT`),
    '-j DROP',
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

/** All of ours, found by their names: our chains, and the rules of others' that lead to them. */
async function readTables(family: Family, bridge: string): Promise<Table[]> {
  const saved = await runProgram([programOf(family, '-save')]);
  const target = new RegExp(` (?:-j|-g) ${bridge}-`);
  const tables: Table[] = [];
  for (const line of saved.split('\n')) {
    if (line.startsWith('*')) tables.push({ name: line.slice(1), chains: [], rules: [] });
    const table = tables.at(-1);
    const [chain = ''] = line.slice(1).split(' ');
    if (line.startsWith(`:${bridge}-`)) table?.chains.push(chain);
    // What is in our own chains goes with them.
    const isJump = line.startsWith('-A ') && !line.startsWith(`-A ${bridge}-`) && target.test(line);
    if (isJump) table?.rules.push(line);
  }
  return tables.filter(({ chains, rules }) => chains.length + rules.length > 0);
}

/**
 * A file for iptables-restore(8), which changes each table at once or not at all: afterwards it has
 * of ours what is `wanted`, once.
 */
function replaceTables(present: readonly Table[], wanted: readonly Table[]): string[] {
  const names = new Set([...wanted, ...present].map(({ name }) => name));
  return [...names].flatMap((name) => {
    const old = present.find((table) => table.name === name);
    const { chains = [], rules = [] } = wanted.find((table) => table.name === name) ?? {};
    const needless = (old?.chains ?? []).filter((chain) => !chains.includes(chain));
    return [
      `*${name}`,
      ...declare([...chains, ...needless]),
      ...(old?.rules ?? []).map((rule) => rule.replace('-A', '-D')),
      ...needless.map((chain) => `-X ${chain}`),
      ...rules,
      'COMMIT',
    ];
  });
}

/** A chain that is there already is emptied by it. */
function declare(chains: readonly string[]): string[] {
  return chains.map((chain) => `:${chain} - [0:0]`);
}

async function restore(family: Family, lines: readonly string[]): Promise<void> {
  const command = programOf(family, '-restore');
  await runProgram([command, '--noflush', '-w', lockSeconds], `${lines.join('\n')}\n`);
}

function createUnlessThere(netlink: Netlink, set: IpSet): void {
  try {
    createSet(netlink, set);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}

function destroyIfThere(netlink: Netlink, name: string): void {
  try {
    destroySet(netlink, name);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
  }
}

function destroySets(netlink: Netlink, bridge: string): void {
  const ours = setNames(netlink).filter((name) => name.startsWith(`${bridge}-`));
  for (const name of ours) destroySet(netlink, name);
}

function programOf(family: Family, which: '-save' | '-restore'): string {
  return `${family === 4 ? 'iptables' : 'ip6tables'}${which}`;
}
