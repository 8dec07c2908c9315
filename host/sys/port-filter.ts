/**
 * What may come in by a link: a classic BPF program that traffic control asks for each packet
 * (tc-bpf(8)). It judges before the bridge, and before any firewall of the machine.
 */
import { text, u16, u32, type Netlink } from './netlink.ts';

// <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>, <linux/if_ether.h>, <linux/filter.h>
const RTM_NEWQDISC = 36;
const RTM_NEWTFILTER = 44;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const TCA_KIND = 1;
const TCA_OPTIONS = 2;
const TC_H_CLSACT = 0xfffffff1;
const TC_H_OF_CLSACT = 0xffff0000;
const TC_H_INGRESS_FILTERS = 0xfffffff2;
const TCA_BPF_OPS_LEN = 4;
const TCA_BPF_OPS = 5;
const TCA_BPF_FLAGS = 8;
const TCA_BPF_FLAG_ACT_DIRECT = 1;
const TC_ACT_OK = 0;
const TC_ACT_SHOT = 2;
const ETH_P_ALL = 3;
const ETH_P_IP = 0x800;
const ETH_P_IPV6 = 0x86dd;
const BPF_LD_W_ABS = 0x20;
const BPF_LD_H_ABS = 0x28;
const BPF_JEQ = 0x15;
const BPF_RET = 0x06;
const SKF_AD_VLAN_TAG_PRESENT_AT = 0xfffff030;

/** struct tcmsg; checked against the C compiler in a test. */
export const trafficControlLayout = {
  size: 20,
  ifindex: 4,
  handle: 8,
  parent: 12,
  info: 16,
} as const;

/** Who a link's packets may claim to be from: these, and nobody else. */
export interface PortOwner {
  mac: Buffer;
  /** 4 bytes. */
  ipv4: Uint8Array;
  /** 16 bytes. */
  ipv6: Uint8Array;
}

/** Everything but IP from the owner's own addresses is dropped: ARP, VLANs, router adverts. */
export function admitOnly(
  netlink: Netlink,
  port: { name: string; index: number },
  owner: PortOwner,
): void {
  const program = ownerProgram(owner);
  netlink.request({
    step: `guard port "${port.name}"`,
    type: RTM_NEWQDISC,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    header: header({ index: port.index, handle: TC_H_OF_CLSACT, parent: TC_H_CLSACT, info: 0 }),
    attributes: [[TCA_KIND, text('clsact')]],
  });
  netlink.request({
    step: `filter port "${port.name}"`,
    type: RTM_NEWTFILTER,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    header: header({
      index: port.index,
      handle: 0,
      parent: TC_H_INGRESS_FILTERS,
      info: ((1 << 16) | (ETH_P_ALL << 8)) >>> 0,
    }),
    attributes: [
      [TCA_KIND, text('bpf')],
      [
        TCA_OPTIONS,
        [
          [TCA_BPF_OPS_LEN, u16(program.length / instructionBytes)],
          [TCA_BPF_OPS, program],
          [TCA_BPF_FLAGS, u32(TCA_BPF_FLAG_ACT_DIRECT)],
        ],
      ],
    ],
  });
}

const instructionBytes = 8;

/** Offsets count from the Ethernet header: source at 6, type at 12, then IP at 14. */
function ownerProgram({ mac, ipv4, ipv6 }: PortOwner): Buffer {
  const v6 = Buffer.from(ipv6);
  const expect = (load: number, at: number, value: number): Step[] => [
    { code: load, k: at },
    { code: BPF_JEQ, k: value, otherwise: 'drop' },
  ];
  const steps: Step[] = [
    ...expect(BPF_LD_W_ABS, SKF_AD_VLAN_TAG_PRESENT_AT, 0),
    ...expect(BPF_LD_W_ABS, 6, mac.readUInt32BE(0)),
    ...expect(BPF_LD_H_ABS, 10, mac.readUInt16BE(4)),
    { code: BPF_LD_H_ABS, k: 12 },
    { code: BPF_JEQ, k: ETH_P_IP, otherwise: 'ipv6' },
    ...expect(BPF_LD_W_ABS, 26, Buffer.from(ipv4).readUInt32BE(0)),
    { code: BPF_RET, k: TC_ACT_OK },
    { code: BPF_JEQ, k: ETH_P_IPV6, otherwise: 'drop', label: 'ipv6' },
    ...[0, 4, 8, 12].flatMap((word) => expect(BPF_LD_W_ABS, 22 + word, v6.readUInt32BE(word))),
    { code: BPF_RET, k: TC_ACT_OK },
    { code: BPF_RET, k: TC_ACT_SHOT, label: 'drop' },
  ];
  return Buffer.concat(steps.map((step, index) => encodeStep(step, index, steps)));
}

type Label = 'ipv6' | 'drop';

interface Step {
  code: number;
  k: number;
  /** Where a comparison that fails goes on. */
  otherwise?: Label;
  label?: Label;
}

/** struct sock_filter */
function encodeStep({ code, k, otherwise }: Step, index: number, steps: Step[]): Buffer {
  const bytes = Buffer.alloc(instructionBytes);
  const target = steps.findIndex(({ label }) => label !== undefined && label === otherwise);
  bytes.writeUInt16LE(code, 0);
  bytes.writeUInt8(otherwise === undefined ? 0 : target - index - 1, 3);
  bytes.writeUInt32LE(k, 4);
  return bytes;
}

function header(fields: { index: number; handle: number; parent: number; info: number }): Buffer {
  const { size, ifindex, handle, parent, info } = trafficControlLayout;
  const bytes = Buffer.alloc(size);
  bytes.writeInt32LE(fields.index, ifindex);
  bytes.writeUInt32LE(fields.handle, handle);
  bytes.writeUInt32LE(fields.parent, parent);
  bytes.writeUInt32LE(fields.info, info);
  return bytes;
}
