/**
 * Who of the instances may reach what. A driver owns its rules and touches nobody else's.
 *
 * From `open` until `close` a packet that comes in by the bridge, or is about to leave by it, meets
 * these rules, whatever else the machine has:
 *
 * - Nothing reaches the host itself, another instance, or an address in `neverReachable`.
 * - Outside, an instance reaches what the policy says that its address was admitted to, and
 *   nothing before it is admitted or after it is dismissed, on connections made earlier included.
 * - What leaves has the host's address as its source. What comes in is an answer, or an error that
 *   belongs to a connection, or is dropped.
 * - All of this holds for IPv4 and IPv6 alike; what is refused is dropped without an answer.
 *
 * `admit` and `dismiss` are on the way of a start: they take some 100 µs and run no program.
 */
import type { InstanceAddress, Subnets } from './address-pool.ts';
import type { EgressPolicy } from './egress.ts';

/** Of the bridges of all hosts, whoever made them. */
export const bridgePrefix = 'hatch';

export interface FirewallOptions {
  /** Also the prefix of what the driver makes. Need not exist yet. */
  bridge: string;
  subnets: Subnets;
  /** The machine was no router before: then it becomes one for bridges of hosts only. */
  dropForeign: { ipv4: boolean; ipv6: boolean };
}

export interface FirewallDriver {
  readonly name: 'nftables' | 'iptables';
  /** In force when it resolves. What an earlier run has left is replaced. */
  open(): Promise<void>;
  /** Makes a policy known, before anybody is admitted to it. */
  addPolicy(policy: EgressPolicy): Promise<void>;
  /** Nobody may be admitted to it any more. */
  removePolicy(policy: Pick<EgressPolicy, 'id'>): Promise<void>;
  /** @throws NetlinkError when the policy is not known, or the address admitted already */
  admit(address: InstanceAddress, policy: Pick<EgressPolicy, 'id'>): void;
  dismiss(address: InstanceAddress, policy: Pick<EgressPolicy, 'id'>): void;
  /** Removes everything, of an earlier run too. Twice is fine. */
  close(): Promise<void>;
}
