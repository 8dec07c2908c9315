/** Elements of a verdict map of nf_tables, added and taken away in one transaction each. */
import { text, u32Network, type Attribute, type Netlink, type NetlinkRequest } from './netlink.ts';

// <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>, <linux/netfilter.h>
const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;
const NFT_MSG_NEWSETELEM = 12;
const NFT_MSG_DELSETELEM = 14;
const NFPROTO_INET = 1;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const NFTA_SET_ELEM_LIST_TABLE = 1;
const NFTA_SET_ELEM_LIST_SET = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS = 3;
const NFTA_LIST_ELEM = 1;
const NFTA_SET_ELEM_KEY = 1;
const NFTA_SET_ELEM_DATA = 2;
const NFTA_DATA_VALUE = 1;
const NFTA_DATA_VERDICT = 2;
const NFTA_VERDICT_CODE = 1;
const NFTA_VERDICT_CHAIN = 2;
const NFT_GOTO = -4;

export interface MapElement {
  /** A map of an `inet` table, with verdicts as its values. */
  table: string;
  map: string;
  key: Uint8Array;
}

/** @throws NetlinkError `EEXIST` for one that is there, `ENOENT` for a chain that is not */
export function addVerdicts(
  netlink: Netlink,
  elements: readonly (MapElement & { chain: string })[],
): void {
  commit(
    netlink,
    elements.map((element) => ({
      step: `add element to map "${element.map}"`,
      type: messageType(NFT_MSG_NEWSETELEM),
      flags: NLM_F_CREATE | NLM_F_EXCL,
      ...listOf(element, [
        [NFTA_SET_ELEM_KEY, [[NFTA_DATA_VALUE, element.key]]],
        [NFTA_SET_ELEM_DATA, [[NFTA_DATA_VERDICT, gotoVerdict(element.chain)]]],
      ]),
    })),
  );
}

/** @throws NetlinkError `ENOENT` for one that is not there */
export function deleteVerdicts(netlink: Netlink, elements: readonly MapElement[]): void {
  commit(
    netlink,
    elements.map((element) => ({
      step: `delete element of map "${element.map}"`,
      type: messageType(NFT_MSG_DELSETELEM),
      ...listOf(element, [[NFTA_SET_ELEM_KEY, [[NFTA_DATA_VALUE, element.key]]]]),
    })),
  );
}

function commit(netlink: Netlink, requests: NetlinkRequest[]): void {
  const limit = (step: string, type: number): NetlinkRequest => ({
    step,
    type,
    header: familyHeader(0, NFNL_SUBSYS_NFTABLES),
  });
  netlink.transaction(requests, {
    begin: [limit('begin', NFNL_MSG_BATCH_BEGIN)],
    end: [limit('end', NFNL_MSG_BATCH_END)],
  });
}

function listOf(
  { table, map }: MapElement,
  element: Attribute[],
): Pick<NetlinkRequest, 'header' | 'attributes'> {
  return {
    header: familyHeader(NFPROTO_INET),
    attributes: [
      [NFTA_SET_ELEM_LIST_TABLE, text(table)],
      [NFTA_SET_ELEM_LIST_SET, text(map)],
      [NFTA_SET_ELEM_LIST_ELEMENTS, [[NFTA_LIST_ELEM, element]]],
    ],
  };
}

function gotoVerdict(chain: string): Attribute[] {
  return [
    [NFTA_VERDICT_CODE, u32Network(NFT_GOTO)],
    [NFTA_VERDICT_CHAIN, text(chain)],
  ];
}

function messageType(type: number): number {
  return (NFNL_SUBSYS_NFTABLES << 8) | type;
}

/** struct nfgenmsg: family, version, and the subsystem's number where a transaction begins. */
function familyHeader(family: number, resource = 0): Buffer {
  return Buffer.from([family, 0, resource >> 8, resource & 0xff]);
}
