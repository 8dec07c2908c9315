/** Calls that are allowed for some arguments only: a row for each way that is allowed. */
import { is, rule, type ArgumentRule } from './profile.ts';

// <linux/socket.h>, <linux/net.h>, <linux/in.h>
const families = { unix: 1n, inet: 2n, inet6: 10n, netlink: 16n } as const;
const socketTypeMask = 0xfn;
const socketTypes = { stream: 1n, datagram: 2n, sequencedPacket: 5n } as const;
const protocols = { any: 0n, tcp: 6n, udp: 17n } as const;
const netlinkRoute = 0n;

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of <linux/sched.h>. */
export const namespaceFlags = 0x7e02_0000n;

// <linux/stat.h>
const fileTypeMask = 0o170_000n;
const fileTypes = {
  regularByDefault: 0n,
  fifo: 0o010_000n,
  regular: 0o100_000n,
  socket: 0o140_000n,
};

// <linux/personality.h>
const personalities = { linux: 0n, query: 0xffff_ffffn } as const;

/** <linux/prctl.h>: what changes the process itself and adds no right to it. */
const prctlOptions = {
  PR_SET_PDEATHSIG: 1n,
  PR_GET_PDEATHSIG: 2n,
  PR_GET_DUMPABLE: 3n,
  PR_GET_KEEPCAPS: 7n,
  PR_SET_NAME: 15n,
  PR_GET_NAME: 16n,
  PR_GET_SECCOMP: 21n,
  PR_CAPBSET_READ: 23n,
  PR_GET_SECUREBITS: 27n,
  PR_SET_TIMERSLACK: 29n,
  PR_GET_TIMERSLACK: 30n,
  PR_SET_CHILD_SUBREAPER: 36n,
  PR_GET_CHILD_SUBREAPER: 37n,
  PR_SET_NO_NEW_PRIVS: 38n,
  PR_GET_NO_NEW_PRIVS: 39n,
  PR_SET_THP_DISABLE: 41n,
  PR_GET_THP_DISABLE: 42n,
  PR_GET_SPECULATION_CTRL: 52n,
  // Names anonymous memory: V8 does so for its code.
  PR_SET_VMA: 0x5356_4d41n,
} as const;

/** A list of what is allowed, so that TIOCSTI and TIOCLINUX, which type into terminals, are not. */
const ioctlCommands = {
  TCGETS: 0x5401n,
  TCSETS: 0x5402n,
  TCSETSW: 0x5403n,
  TCSETSF: 0x5404n,
  TCSBRK: 0x5409n,
  TCXONC: 0x540an,
  TCFLSH: 0x540bn,
  TIOCSCTTY: 0x540en,
  TIOCGPGRP: 0x540fn,
  TIOCSPGRP: 0x5410n,
  TIOCOUTQ: 0x5411n,
  TIOCGWINSZ: 0x5413n,
  TIOCSWINSZ: 0x5414n,
  FIONREAD: 0x541bn,
  FIONBIO: 0x5421n,
  TIOCNOTTY: 0x5422n,
  TIOCGSID: 0x5429n,
  TCGETS2: 0x802c_542an,
  TIOCGPTN: 0x8004_5430n,
  TIOCSPTLCK: 0x4004_5431n,
  TIOCGPTPEER: 0x5441n,
  FIONCLEX: 0x5450n,
  FIOCLEX: 0x5451n,
  FIOASYNC: 0x5452n,
  FICLONE: 0x4004_9409n,
  FICLONERANGE: 0x4020_940dn,
  FS_IOC_GETFLAGS: 0x8008_6601n,
  SIOCATMARK: 0x8905n,
  SIOCGIFNAME: 0x8910n,
  SIOCGIFCONF: 0x8912n,
  SIOCGIFFLAGS: 0x8913n,
  SIOCGIFADDR: 0x8915n,
  SIOCGIFBRDADDR: 0x8919n,
  SIOCGIFNETMASK: 0x891bn,
  SIOCGIFMTU: 0x8921n,
  SIOCGIFHWADDR: 0x8927n,
  SIOCGIFINDEX: 0x8933n,
} as const;

export const argumentRules: readonly ArgumentRule[] = [
  ...Object.values(socketTypes).map((type) =>
    rule('socket', 'local sockets', is(0, families.unix), is(1, type, socketTypeMask)),
  ),
  ...internetSockets('stream', ['any', 'tcp']),
  ...internetSockets('datagram', ['any', 'udp']),
  rule(
    'socket',
    'the list of own interfaces; no other protocol of netlink, many had holes',
    is(0, families.netlink),
    is(2, netlinkRoute),
  ),
  rule('socketpair', 'pipes of child processes', is(0, families.unix)),
  rule('clone', 'threads and processes, without a namespace', is(0, 0n, namespaceFlags)),
  ...Object.values(personalities).map((value) =>
    rule('personality', 'the plain one: others switch protections off', is(0, value)),
  ),
  ...Object.entries(prctlOptions).map(([name, value]) => rule('prctl', name, is(0, value))),
  ...Object.entries(ioctlCommands).map(([name, value]) => rule('ioctl', name, is(1, value))),
  ...Object.entries(fileTypes).flatMap(([name, type]) => [
    rule('mknod', `${name}, no device`, is(1, type, fileTypeMask)),
    rule('mknodat', `${name}, no device`, is(2, type, fileTypeMask)),
  ]),
];

/** TCP and UDP only: a raw socket forges packets, a rare protocol loads its kernel module. */
function internetSockets(
  type: keyof typeof socketTypes,
  allowed: readonly (keyof typeof protocols)[],
): ArgumentRule[] {
  return [families.inet, families.inet6].flatMap((family) =>
    allowed.map((protocol) =>
      rule(
        'socket',
        `internet ${type}`,
        is(0, family),
        is(1, socketTypes[type], socketTypeMask),
        is(2, protocols[protocol]),
      ),
    ),
  );
}
