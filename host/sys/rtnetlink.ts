/** Links, addresses, routes and neighbours (rtnetlink(7)). */
import { isErrno } from './errors.ts';
import {
  decodeAttributes,
  encodeAttributes,
  text,
  u8,
  u32,
  type Attribute,
  type Netlink,
} from './netlink.ts';

// <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/neighbour.h>, <linux/veth.h>
const AF_INET = 2;
const AF_INET6 = 10;
const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;
const RTM_NEWROUTE = 24;
const RTM_NEWNEIGH = 28;
const NLM_F_REPLACE = 0x100;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const IFF_UP = 1;
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MASTER = 10;
const IFLA_LINKINFO = 18;
const IFLA_IFALIAS = 20;
const IFLA_AF_SPEC = 26;
const IFLA_NET_NS_FD = 28;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_INFO_SLAVE_KIND = 4;
const IFLA_INFO_SLAVE_DATA = 5;
const IFLA_INET6_ADDR_GEN_MODE = 8;
const IN6_ADDR_GEN_MODE_NONE = 1;
const VETH_INFO_PEER = 1;
const IFLA_BR_MCAST_SNOOPING = 23;
const IFLA_BRPORT_LEARNING = 8;
const IFLA_BRPORT_UNICAST_FLOOD = 9;
const IFLA_BRPORT_MCAST_FLOOD = 27;
const IFLA_BRPORT_BCAST_FLOOD = 30;
const IFLA_BRPORT_ISOLATED = 33;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_F_NODAD = 2;
const IFA_FLAGS = 8;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RT_TABLE_MAIN = 254;
const RTPROT_STATIC = 4;
const RT_SCOPE_UNIVERSE = 0;
const RTN_UNICAST = 1;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NTF_SELF = 2;
const NTF_MASTER = 4;
const NUD_NOARP = 0x40;
const NUD_PERMANENT = 0x80;
const AF_BRIDGE = 7;

/** Where the fields of the kernel's structures lie; checked against the C compiler in a test. */
export const rtnetlinkLayout = {
  ifinfomsg: { size: 16, index: 4, flags: 8, change: 12 },
  ifaddrmsg: { size: 8, family: 0, prefixlen: 1, index: 4 },
  rtmsg: { size: 12, family: 0, table: 4, protocol: 5, scope: 6, type: 7 },
  ndmsg: { size: 12, family: 0, ifindex: 4, state: 8, flags: 10 },
} as const;

export interface Link {
  index: number;
  name: string;
}

/** Network addresses are 4 or 16 bytes; which of them says which protocol. */
export type AddressBytes = Uint8Array;

/** Undefined when there is no link of that name. */
export function findLink(netlink: Netlink, name: string): Link | undefined {
  try {
    const { body } = netlink.get({
      step: `find link "${name}"`,
      type: RTM_GETLINK,
      header: linkHeader(0),
      attributes: [[IFLA_IFNAME, text(name)]],
    });
    return { name, index: body.readInt32LE(rtnetlinkLayout.ifinfomsg.index) };
  } catch (error) {
    if (isErrno(error, 'ENODEV')) return undefined;
    throw error;
  }
}

/** A bridge that is down. */
export function addBridge(netlink: Netlink, { name, mac }: { name: string; mac: Buffer }): void {
  netlink.request({
    step: `add bridge "${name}"`,
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    header: linkHeader(0),
    attributes: [
      [IFLA_IFNAME, text(name)],
      [IFLA_ADDRESS, mac],
      [
        IFLA_LINKINFO,
        [
          [IFLA_INFO_KIND, text('bridge')],
          [IFLA_INFO_DATA, [[IFLA_BR_MCAST_SNOOPING, u8(0)]]],
        ],
      ],
    ],
  });
}

/** Of all bridges, by name: what was written on them. */
export function bridgeAliases(netlink: Netlink): Map<string, string> {
  const messages = netlink.dump({
    step: 'list bridges',
    type: RTM_GETLINK,
    header: linkHeader(0),
    attributes: [[IFLA_LINKINFO, [[IFLA_INFO_KIND, text('bridge')]]]],
  });
  const { size } = rtnetlinkLayout.ifinfomsg;
  return new Map(
    messages.flatMap(({ body }): [string, string][] => {
      const attributes = decodeAttributes(body.subarray(size));
      const alias = attributes.get(IFLA_IFALIAS);
      const name = attributes.get(IFLA_IFNAME);
      if (alias === undefined || name === undefined) return [];
      return [[stringOf(name), stringOf(alias)]];
    }),
  );
}

/** At most 255 bytes, for everybody to read. */
export function setLinkAlias(netlink: Netlink, link: Link, alias: string): void {
  netlink.request({
    step: `write an alias on link "${link.name}"`,
    type: RTM_NEWLINK,
    header: linkHeader(link.index),
    attributes: [[IFLA_IFALIAS, Buffer.from(alias)]],
  });
}

export interface VethPair {
  name: string;
  /** The link that the near end becomes a port of. */
  bridgeIndex: number;
  peer: { name: string; mac: Buffer; namespaceFd: number };
}

/** Two links that are down: one here, a port of the bridge, and one in the other namespace. */
export function addVethPair(netlink: Netlink, { name, bridgeIndex, peer }: VethPair): void {
  netlink.request({
    step: `add link "${name}"`,
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    header: linkHeader(0),
    attributes: [
      [IFLA_IFNAME, text(name)],
      [IFLA_MASTER, u32(bridgeIndex)],
      [
        IFLA_LINKINFO,
        [
          [IFLA_INFO_KIND, text('veth')],
          [IFLA_INFO_DATA, [[VETH_INFO_PEER, peerOf(peer)]]],
        ],
      ],
    ],
  });
}

/**
 * What a port may do: talk with the bridge itself and no other port, and get only what is sent to
 * its own hardware address. What it claims to be is not believed.
 */
export function isolatePort(netlink: Netlink, port: Link): void {
  netlink.request({
    step: `isolate port "${port.name}"`,
    type: RTM_NEWLINK,
    header: linkHeader(port.index),
    attributes: [
      [IFLA_AF_SPEC, noLinkLocal],
      [
        IFLA_LINKINFO,
        [
          [IFLA_INFO_SLAVE_KIND, text('bridge')],
          [
            IFLA_INFO_SLAVE_DATA,
            [
              [IFLA_BRPORT_ISOLATED, u8(1)],
              [IFLA_BRPORT_LEARNING, u8(0)],
              [IFLA_BRPORT_UNICAST_FLOOD, u8(0)],
              [IFLA_BRPORT_MCAST_FLOOD, u8(0)],
              [IFLA_BRPORT_BCAST_FLOOD, u8(0)],
            ],
          ],
        ],
      ],
    ],
  });
}

/** A link that is down will have no link-local address, and so never talks of its own accord. */
export function silenceLink(netlink: Netlink, link: Link): void {
  netlink.request({
    step: `silence link "${link.name}"`,
    type: RTM_NEWLINK,
    header: linkHeader(link.index),
    attributes: [[IFLA_AF_SPEC, noLinkLocal]],
  });
}

export function setLinkUp(netlink: Netlink, link: Link): void {
  netlink.request({
    step: `bring up link "${link.name}"`,
    type: RTM_NEWLINK,
    header: linkHeader(link.index, { up: true }),
  });
}

/** With what hangs on it: addresses, routes, the other end of a pair. */
export function deleteLink(netlink: Netlink, link: Link): void {
  netlink.request({
    step: `delete link "${link.name}"`,
    type: RTM_DELLINK,
    header: linkHeader(link.index),
  });
}

/** Usable at once: nobody is asked whether it is taken. */
export function addAddress(
  netlink: Netlink,
  options: { link: number; address: AddressBytes; prefixLength: number },
): void {
  const { link, address, prefixLength } = options;
  const { ifaddrmsg } = rtnetlinkLayout;
  const header = Buffer.alloc(ifaddrmsg.size);
  header.writeUInt8(familyOf(address), ifaddrmsg.family);
  header.writeUInt8(prefixLength, ifaddrmsg.prefixlen);
  header.writeUInt32LE(link, ifaddrmsg.index);
  netlink.request({
    step: 'add address',
    type: RTM_NEWADDR,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    header,
    attributes: [
      [IFA_LOCAL, address],
      [IFA_ADDRESS, address],
      [IFA_FLAGS, u32(IFA_F_NODAD)],
    ],
  });
}

/** To everywhere, by a gateway. */
export function addDefaultRoute(
  netlink: Netlink,
  route: { link: number; gateway: AddressBytes },
): void {
  const { rtmsg } = rtnetlinkLayout;
  const header = Buffer.alloc(rtmsg.size);
  header.writeUInt8(familyOf(route.gateway), rtmsg.family);
  header.writeUInt8(RT_TABLE_MAIN, rtmsg.table);
  header.writeUInt8(RTPROT_STATIC, rtmsg.protocol);
  header.writeUInt8(RT_SCOPE_UNIVERSE, rtmsg.scope);
  header.writeUInt8(RTN_UNICAST, rtmsg.type);
  netlink.request({
    step: 'add default route',
    type: RTM_NEWROUTE,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    header,
    attributes: [
      [RTA_OIF, u32(route.link)],
      [RTA_GATEWAY, route.gateway],
    ],
  });
}

/** Who has a network address, for good: nobody is asked, and nobody's claim is heard. */
export function addNeighbour(
  netlink: Netlink,
  { link, address, mac }: { link: number; address: AddressBytes; mac: Buffer },
): void {
  netlink.request({
    step: 'add neighbour',
    type: RTM_NEWNEIGH,
    flags: NLM_F_CREATE | NLM_F_REPLACE,
    header: neighbourHeader({
      family: familyOf(address),
      link,
      state: NUD_PERMANENT,
      flags: NTF_SELF,
    }),
    attributes: [
      [NDA_DST, address],
      [NDA_LLADDR, mac],
    ],
  });
}

/** Which port of a bridge a hardware address is behind, for good. */
export function bindMacToPort(
  netlink: Netlink,
  { port, mac }: { port: number; mac: Buffer },
): void {
  netlink.request({
    step: 'bind hardware address',
    type: RTM_NEWNEIGH,
    flags: NLM_F_CREATE | NLM_F_REPLACE,
    header: neighbourHeader({
      family: AF_BRIDGE,
      link: port,
      state: NUD_NOARP,
      flags: NTF_MASTER,
    }),
    attributes: [[NDA_LLADDR, mac]],
  });
}

const noLinkLocal: Attribute[] = [
  [AF_INET6, [[IFLA_INET6_ADDR_GEN_MODE, u8(IN6_ADDR_GEN_MODE_NONE)]]],
];

function peerOf({ name, mac, namespaceFd }: VethPair['peer']): Buffer {
  return Buffer.concat([
    linkHeader(0),
    encodeAttributes([
      [IFLA_IFNAME, text(name)],
      [IFLA_ADDRESS, mac],
      [IFLA_NET_NS_FD, u32(namespaceFd)],
    ]),
  ]);
}

function linkHeader(linkIndex: number, { up = false } = {}): Buffer {
  const { size, index, flags, change } = rtnetlinkLayout.ifinfomsg;
  const header = Buffer.alloc(size);
  header.writeInt32LE(linkIndex, index);
  header.writeUInt32LE(up ? IFF_UP : 0, flags);
  header.writeUInt32LE(up ? IFF_UP : 0, change);
  return header;
}

function neighbourHeader(options: {
  family: number;
  link: number;
  state: number;
  flags: number;
}): Buffer {
  const { size, family, ifindex, state, flags } = rtnetlinkLayout.ndmsg;
  const header = Buffer.alloc(size);
  header.writeUInt8(options.family, family);
  header.writeInt32LE(options.link, ifindex);
  header.writeUInt16LE(options.state, state);
  header.writeUInt8(options.flags, flags);
  return header;
}

function stringOf(attribute: Buffer): string {
  return attribute.toString().replace(/\0$/, '');
}

function familyOf(address: AddressBytes): number {
  return address.length === 4 ? AF_INET : AF_INET6;
}
