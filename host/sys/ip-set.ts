/** Sets of IP addresses that rules of iptables look into: the kernel's `hash:ip` (ipset(8)). */
import {
  decodeAttributes,
  text,
  u32Network,
  u8,
  type Attribute,
  type Netlink,
  type NetlinkRequest,
} from './netlink.ts';

// <linux/netfilter/nfnetlink.h>, <linux/netfilter/ipset/ip_set.h>, <linux/netfilter.h>
const NFNL_SUBSYS_IPSET = 6;
const IPSET_PROTOCOL = 7;
const IPSET_CMD_CREATE = 2;
const IPSET_CMD_DESTROY = 3;
const IPSET_CMD_LIST = 7;
const IPSET_CMD_ADD = 9;
const IPSET_CMD_DEL = 10;
const IPSET_ATTR_PROTOCOL = 1;
const IPSET_ATTR_SETNAME = 2;
const IPSET_ATTR_TYPENAME = 3;
const IPSET_ATTR_REVISION = 4;
const IPSET_ATTR_FAMILY = 5;
const IPSET_ATTR_FLAGS = 6;
const IPSET_ATTR_DATA = 7;
const IPSET_FLAG_LIST_SETNAME = 2;
const IPSET_ATTR_IP = 1;
const IPSET_ATTR_IPADDR_IPV4 = 1;
const IPSET_ATTR_IPADDR_IPV6 = 2;
const NFPROTO_IPV4 = 2;
const NFPROTO_IPV6 = 10;
const NLA_F_NET_BYTEORDER = 0x4000;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;

export interface IpSet {
  /** At most 31 characters. */
  name: string;
  family: 4 | 6;
}

/** @throws NetlinkError `EEXIST` when there is one of that name */
export function createSet(netlink: Netlink, set: IpSet): void {
  netlink.request({
    ...requestFor(set, 'create', IPSET_CMD_CREATE),
    flags: NLM_F_CREATE | NLM_F_EXCL,
    attributes: [
      ...naming(set),
      [IPSET_ATTR_TYPENAME, text('hash:ip')],
      [IPSET_ATTR_REVISION, u8(0)],
      [IPSET_ATTR_FAMILY, u8(protocolOf(set))],
      [IPSET_ATTR_DATA, []],
    ],
  });
}

/** Of every set in this network namespace, of both families. */
export function setNames(netlink: Netlink): string[] {
  const messages = netlink.dump({
    step: 'list sets',
    type: (NFNL_SUBSYS_IPSET << 8) | IPSET_CMD_LIST,
    header: familyHeader(0),
    attributes: [
      [IPSET_ATTR_PROTOCOL, u8(IPSET_PROTOCOL)],
      [IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, u32Network(IPSET_FLAG_LIST_SETNAME)],
    ],
  });
  return messages.flatMap(({ body }) => {
    const name = decodeAttributes(body.subarray(familyHeaderBytes)).get(IPSET_ATTR_SETNAME);
    return name === undefined ? [] : [name.toString('latin1').replace(/\0$/, '')];
  });
}

/** @throws NetlinkError `EBUSY` while a rule looks into it, `ENOENT` */
export function destroySet(netlink: Netlink, name: string): void {
  // One of either family goes by its name.
  const set: IpSet = { name, family: 4 };
  netlink.request({ ...requestFor(set, 'destroy', IPSET_CMD_DESTROY), attributes: naming(set) });
}

/** @throws NetlinkError `ENOENT` without such a set, or when the address is in it already */
export function addToSet(netlink: Netlink, set: IpSet, address: Uint8Array): void {
  changeMember(netlink, set, { what: 'add to', command: IPSET_CMD_ADD, address });
}

export function deleteFromSet(netlink: Netlink, set: IpSet, address: Uint8Array): void {
  changeMember(netlink, set, { what: 'delete from', command: IPSET_CMD_DEL, address });
}

function changeMember(
  netlink: Netlink,
  set: IpSet,
  change: { what: string; command: number; address: Uint8Array },
): void {
  const kind = set.family === 4 ? IPSET_ATTR_IPADDR_IPV4 : IPSET_ATTR_IPADDR_IPV6;
  netlink.request({
    ...requestFor(set, change.what, change.command),
    flags: NLM_F_EXCL,
    attributes: [
      ...naming(set),
      [IPSET_ATTR_DATA, [[IPSET_ATTR_IP, [[kind | NLA_F_NET_BYTEORDER, change.address]]]]],
    ],
  });
}

function requestFor(
  set: IpSet,
  what: string,
  command: number,
): Pick<NetlinkRequest, 'step' | 'type' | 'header'> {
  return {
    step: `${what} set "${set.name}"`,
    type: (NFNL_SUBSYS_IPSET << 8) | command,
    header: familyHeader(protocolOf(set)),
  };
}

const familyHeaderBytes = 4;

/** struct nfgenmsg */
function familyHeader(family: number): Buffer {
  return Buffer.from([family, 0, 0, 0]);
}

function naming({ name }: IpSet): Attribute[] {
  return [
    [IPSET_ATTR_PROTOCOL, u8(IPSET_PROTOCOL)],
    [IPSET_ATTR_SETNAME, text(name)],
  ];
}

function protocolOf({ family }: IpSet): number {
  return family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
}
