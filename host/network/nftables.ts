/**
 * The firewall as one `inet` table. It is loaded in one transaction, and policies are chains of it;
 * an instance is admitted by one element per protocol that leads from its address to a chain.
 */
import { Netlink } from '../sys/netlink.ts';
import { addVerdicts, deleteVerdicts, type MapElement } from '../sys/nft-elements.ts';
import type { InstanceAddress } from './address-pool.ts';
import { runProgram } from './command.ts';
import { neverReachable, type EgressPolicy, type Permit } from './egress.ts';
import { bridgePrefix, type FirewallDriver, type FirewallOptions } from './firewall-driver.ts';
import { formatSubnet } from './subnet.ts';

export class NftablesDriver implements FirewallDriver {
  readonly name = 'nftables';
  readonly #options: FirewallOptions;
  #netlink: Netlink | undefined;

  constructor(options: FirewallOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    await load(nftTable(this.#options));
    this.#netlink ??= new Netlink('netfilter');
  }

  async addPolicy(policy: EgressPolicy): Promise<void> {
    await load(nftPolicy(this.#options.bridge, policy));
  }

  async removePolicy({ id }: Pick<EgressPolicy, 'id'>): Promise<void> {
    await load(`delete chain inet ${this.#options.bridge} ${chainOf(id)}\n`);
  }

  admit(address: InstanceAddress, { id }: Pick<EgressPolicy, 'id'>): void {
    const elements = this.#elementsOf(address).map((each) => ({ ...each, chain: chainOf(id) }));
    addVerdicts(this.#openNetlink(), elements);
  }

  dismiss(address: InstanceAddress): void {
    deleteVerdicts(this.#openNetlink(), this.#elementsOf(address));
  }

  async close(): Promise<void> {
    this.#netlink?.close();
    this.#netlink = undefined;
    await load(withoutTable(this.#options.bridge));
  }

  #elementsOf({ ipv4, ipv6 }: InstanceAddress): MapElement[] {
    const table = this.#options.bridge;
    return [
      { table, map: 'admitted4', key: ipv4 },
      { table, map: 'admitted6', key: ipv6 },
    ];
  }

  #openNetlink(): Netlink {
    if (this.#netlink === undefined) throw new TypeError('The firewall is not open');
    return this.#netlink;
  }
}

/** The whole rule set but for policies, in the language of nft(8). Replaces what is there. */
function nftTable({ bridge, subnets, dropForeign }: FirewallOptions): string {
  const foreign = [
    // Another host's rules judge what is of its bridge.
    `iifname "${bridgePrefix}*" accept`,
    `oifname "${bridgePrefix}*" accept`,
    ...(dropForeign.ipv4 ? ['meta nfproto ipv4 drop'] : []),
    ...(dropForeign.ipv6 ? ['meta nfproto ipv6 drop'] : []),
  ];
  return `${withoutTable(bridge)}table inet ${bridge} {
  map admitted4 { type ipv4_addr : verdict; }
  map admitted6 { type ipv6_addr : verdict; }
  chain input {
    type filter hook input priority filter - 10; policy accept;
    iifname "${bridge}" drop
  }
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    iifname "${bridge}" goto outbound
    oifname "${bridge}" goto inbound
    ${foreign.join('\n    ')}
  }
  # Every packet, also of a connection that is known: it may be of an earlier owner of the address.
  chain outbound {
    oifname "${bridge}" drop
    ct state invalid drop
    ct status dnat drop
    ip saddr vmap @admitted4
    ip6 saddr vmap @admitted6
    drop
  }
  chain inbound {
    ct direction reply ct state established accept
    ct state related accept
    drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${formatSubnet(subnets.ipv4)} oifname != "${bridge}" masquerade
    ip6 saddr ${formatSubnet(subnets.ipv6)} oifname != "${bridge}" masquerade
  }
}
`;
}

function nftPolicy(bridge: string, { id, dns, permits }: EgressPolicy): string {
  return `table inet ${bridge} {
  chain ${chainOf(id)} {
    ${[
      ...dns.map(nftPermit),
      `ip daddr { ${neverReachable[4].join(', ')} } drop`,
      `ip6 daddr { ${neverReachable[6].join(', ')} } drop`,
      ...permits.map(nftPermit),
      'drop',
    ].join('\n    ')}
  }
}
`;
}

function nftPermit({ family, to, protocol, port }: Permit): string {
  const protocolName = family === 4 ? 'ip' : 'ip6';
  const destination =
    to === undefined ? `meta nfproto ipv${family}` : `${protocolName} daddr ${to}`;
  const service = port === undefined ? `meta l4proto ${protocol}` : `${protocol} dport ${port}`;
  return `${destination} ${service} accept`;
}

/** That it is added first makes it deletable in any case. */
function withoutTable(bridge: string): string {
  return `table inet ${bridge}\ndelete table inet ${bridge}\n`;
}

function chainOf(policyId: string): string {
  return `policy-${policyId}`;
}

async function load(rules: string): Promise<void> {
  await runProgram(['nft', '-f', '-'], rules);
}
