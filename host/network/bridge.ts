/**
 * The bridge that instances with egress are ports of, and their side of it: `eth0` with addresses
 * and default routes. A port is isolated: frames go between it and the bridge, to no other port;
 * what comes in by it is from its owner's addresses or dropped; who has which address is said once
 * and asked of nobody.
 */
import { writeFileSync } from 'node:fs';
import { isErrno } from '../sys/errors.ts';
import { inNetworkNamespace } from '../sys/namespace.ts';
import { Netlink } from '../sys/netlink.ts';
import { admitOnly } from '../sys/port-filter.ts';
import {
  addAddress,
  addBridge,
  addDefaultRoute,
  addNeighbour,
  addVethPair,
  bindMacToPort,
  deleteLink,
  findLink,
  isolatePort,
  setLinkAlias,
  setLinkUp,
  silenceLink,
  type Link,
} from '../sys/rtnetlink.ts';
import { gatewayOf, type InstanceAddress, type Subnets } from './address-pool.ts';

/** Of an instance's side; on the host's it is the bridge's name and the address's number. */
const innerName = 'eth0';

export interface BridgeOptions {
  name: string;
  subnets: Subnets;
  /** What other hosts of this network namespace may read on it, in at most 255 bytes. */
  alias: string;
}

export class Bridge {
  readonly #netlink: Netlink;
  readonly #subnets: Subnets;
  readonly #gateway: InstanceAddress;
  readonly #link: Link;

  /** One of that name is replaced. Packets flow from here on: the firewall has to be there. */
  static open(options: BridgeOptions): Bridge {
    const netlink = new Netlink('route');
    try {
      return new Bridge(netlink, options);
    } catch (error) {
      netlink.close();
      throw error;
    }
  }

  private constructor(netlink: Netlink, { name, subnets, alias }: BridgeOptions) {
    this.#netlink = netlink;
    this.#subnets = subnets;
    this.#gateway = gatewayOf(subnets);
    removeBridge(name);
    addBridge(netlink, { name, mac: this.#gateway.mac });
    this.#link = linkOf(netlink, name);
    silenceLink(netlink, this.#link);
    setLinkAlias(netlink, this.#link, alias);
    // A machine may have it switched off for links that are new.
    writeFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, '0');
    this.#addAddresses(netlink, this.#link.index, this.#gateway);
    setLinkUp(netlink, this.#link);
  }

  /**
   * Gives a network namespace, which has nothing but its loopback, an address and a way out. False
   * when what had the address before is not gone yet; the namespace is untouched then.
   */
  attach(namespaceFd: number, address: InstanceAddress): boolean {
    const name = `${this.#link.name}p${address.number}`;
    try {
      addVethPair(this.#netlink, {
        name,
        bridgeIndex: this.#link.index,
        peer: { name: innerName, mac: address.mac, namespaceFd },
      });
    } catch (error) {
      if (isErrno(error, 'EEXIST')) return false;
      throw error;
    }
    const port = linkOf(this.#netlink, name);
    isolatePort(this.#netlink, port);
    admitOnly(this.#netlink, port, address);
    bindMacToPort(this.#netlink, { port: port.index, mac: address.mac });
    this.#tellNeighbour(this.#netlink, this.#link.index, address);
    setLinkUp(this.#netlink, port);
    const inner = inNetworkNamespace(namespaceFd, () => new Netlink('route'));
    try {
      this.#configureInside(inner, address);
    } finally {
      inner.close();
    }
    return true;
  }

  /** The ports stay, with nothing at their other end, until their namespaces end. */
  close(): void {
    deleteLink(this.#netlink, this.#link);
    this.#netlink.close();
  }

  #configureInside(inner: Netlink, address: InstanceAddress): void {
    const link = linkOf(inner, innerName);
    silenceLink(inner, link);
    this.#addAddresses(inner, link.index, address);
    setLinkUp(inner, link);
    this.#tellNeighbour(inner, link.index, this.#gateway);
    addDefaultRoute(inner, { link: link.index, gateway: this.#gateway.ipv4 });
    addDefaultRoute(inner, { link: link.index, gateway: this.#gateway.ipv6 });
  }

  #addAddresses(netlink: Netlink, link: number, { ipv4, ipv6 }: InstanceAddress): void {
    const subnets = this.#subnets;
    addAddress(netlink, { link, address: ipv4, prefixLength: subnets.ipv4.prefixLength });
    addAddress(netlink, { link, address: ipv6, prefixLength: subnets.ipv6.prefixLength });
  }

  #tellNeighbour(netlink: Netlink, link: number, { ipv4, ipv6, mac }: InstanceAddress): void {
    addNeighbour(netlink, { link, address: ipv4, mac });
    addNeighbour(netlink, { link, address: ipv6, mac });
  }
}

/** What a host that was killed has left. */
export function removeBridge(name: string): void {
  const netlink = new Netlink('route');
  try {
    const link = findLink(netlink, name);
    if (link !== undefined) deleteLink(netlink, link);
  } finally {
    netlink.close();
  }
}

function linkOf(netlink: Netlink, name: string): Link {
  const link = findLink(netlink, name);
  if (link === undefined) throw new TypeError(`Link "${name}" is gone`);
  return link;
}
