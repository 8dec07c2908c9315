/**
 * What host/sys writes into memory by hand is what C means: every constant, found in the sources by
 * its C name, and every structure's layout, checked against the headers by the C compiler.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { helper } from '../../../host/sys/bpf-instructions.ts';
import { btfInfoLayout, memberLayout, typeLayout } from '../../../host/sys/bpf.ts';
import { fileHandleLayout } from '../../../host/sys/file-handle.ts';
import { encodeOpenHow, makeDevice, resolve } from '../../../host/sys/file.ts';
import { errnoOf } from '../../../host/sys/libc.ts';
import { pathBeneathLayout } from '../../../host/sys/landlock.ts';
import { fsconfigCommand, mountAttribute, mountAttrLayout } from '../../../host/sys/mount.ts';
import { interfaceRequestLayout, namespaceFlag } from '../../../host/sys/namespace.ts';
import { netlinkLayout } from '../../../host/sys/netlink.ts';
import { callNumber } from '../../../host/sys/numbers.ts';
import { trafficControlLayout } from '../../../host/sys/port-filter.ts';
import {
  pollFdLayout,
  resource,
  resourceLimitLayout,
  signalInfoBytes,
} from '../../../host/sys/process.ts';
import { rtnetlinkLayout } from '../../../host/sys/rtnetlink.ts';
import { filterInstructionsMax, filterProgramLayout } from '../../../host/sys/seccomp-filter.ts';
import {
  notificationAnswerLayout,
  notificationLayout,
} from '../../../host/sys/seccomp-listener.ts';
import {
  diskQuotaLayout,
  fileAttributesLayout,
  quotaStateLayout,
} from '../../../host/sys/project-quota.ts';
import { comparisonLayout } from '../../../host/sys/seccomp.ts';
import { messageLayout } from '../../../host/sys/socket.ts';
import { evaluate, layout, pair, type Claim } from '../../support/c-compiler.ts';
import { btrfsLayouts } from './btrfs-layouts.ts';

const headers = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <net/if.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/capability.h>
#include <linux/dqblk_xfs.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/if_addr.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/magic.h>
#include <linux/neighbour.h>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>
#include <linux/openat2.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/quota.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/veth.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
`;

/** Constants whose name in the source is not their C name. */
const spelledInC: Record<string, string> = {
  ALLOW: 'SECCOMP_RET_ALLOW',
  ERRNO: 'SECCOMP_RET_ERRNO',
  BPF_LD_W_ABS: 'BPF_LD | BPF_W | BPF_ABS',
  BPF_LD_H_ABS: 'BPF_LD | BPF_H | BPF_ABS',
  BPF_JEQ: 'BPF_JMP | BPF_JEQ | BPF_K',
  SKF_AD_VLAN_TAG_PRESENT_AT: '(uint32_t)(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT)',
  TC_H_OF_CLSACT: 'TC_H_MAKE(TC_H_CLSACT, 0)',
  TC_H_INGRESS_FILTERS: 'TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)',
  SCMP_ACT_ERRNO: 'SCMP_ACT_ERRNO(0)',
  SECUREBITS:
    '(SECURE_ALL_BITS | SECURE_ALL_LOCKS | issecure_mask(SECURE_NO_CAP_AMBIENT_RAISE))' +
    ' & ~issecure_mask(SECURE_KEEP_CAPS)',
  LINUX_CAPABILITY_VERSION_3: '_LINUX_CAPABILITY_VERSION_3',
  SOCK_DGRAM_CLOEXEC: 'SOCK_DGRAM | SOCK_CLOEXEC',
};

describe('the system layer agrees with the C compiler', () => {
  /** C expression -> value, for all that the tests below ask. */
  let inC: Map<string, bigint>;
  const constants = constantsInSource();
  const tables = namedTables();
  const layouts = [...structureLayouts(), ...netlinkLayouts()];

  before(() => {
    inC = evaluate(headers, [
      ...constants.map(({ expression }) => expression),
      ...tables.map(([expression]) => expression),
      ...layouts.map(([expression]) => expression),
      'makedev(0x12345, 0x6789a)',
    ]);
  });

  test('constants', () => {
    assert.ok(constants.length > 60, `saw only ${constants.length} constants`);
    for (const { expression, value, where } of constants)
      assert.equal(value, inC.get(expression), `${where}: ${expression}`);
  });

  test('tables of numbers: system calls, attributes, namespaces, limits', () => {
    for (const [expression, value] of tables)
      assert.equal(BigInt(value), inC.get(expression), expression);
  });

  test('sizes and offsets of structures', () => {
    for (const [expression, value] of layouts)
      assert.equal(BigInt(value), inC.get(expression), expression);
  });

  test('device numbers', () => {
    const place = fs.mkdtempSync(join(tmpdir(), 'hatch-abi-'));
    try {
      const path = `${place}/device`;
      makeDevice({ path, type: 'block', mode: 0o600, major: 0x123, minor: 0x6789a });
      // The kernel keeps 12 bits of major and 20 of minor.
      const expected = evaluate(headers, ['makedev(0x123, 0x6789a)']).values().next().value;
      assert.equal(fs.statSync(path, { bigint: true }).rdev, expected);
    } finally {
      fs.rmSync(place, { recursive: true });
    }
  });

  test('errno names', () => {
    const names = ['EPERM', 'ENOENT', 'EAGAIN', 'EINVAL', 'ERANGE', 'ENOSYS', 'ESTALE', 'EMSGSIZE'];
    for (const [name, value] of evaluate(headers, names))
      assert.equal(BigInt(errnoOf(name)), value, name);
  });
});

/** Every `const NAME = number` of host/sys, wherever it stands. */
function constantsInSource(): { expression: string; value: bigint; where: string }[] {
  const folder = join(import.meta.dirname, '../../../host/sys');
  // ZFS's headers are not Linux's: its two numbers are tried where ZFS is.
  const files = fs.readdirSync(folder).filter((file) => file !== 'zfs.ts');
  const pattern = /const ([A-Z_][A-Z0-9_]+) =\s*([-\w<|. ]+);/g;
  return files.flatMap((file) =>
    [...fs.readFileSync(join(folder, file), 'utf8').matchAll(pattern)].map((match) => {
      const name = match[1] ?? '';
      return {
        expression: spelledInC[name] ?? name,
        value: valueOf(match[2] ?? ''),
        where: `host/sys/${file}`,
      };
    }),
  );
}

/** The value of a literal, or of literals joined by `|` or `<<`. */
function valueOf(source: string): bigint {
  return source
    .split('|')
    .map((term) => {
      const [value = 0n, shift = 0n] = term.split('<<').map(literal);
      return value << shift;
    })
    .reduce((all, each) => all | each);
}

function literal(source: string): bigint {
  const digits = source.trim().replaceAll('_', '').replace(/n$/, '');
  return digits.startsWith('-') ? -BigInt(digits.slice(1)) : BigInt(digits);
}

function namedTables(): Claim[] {
  const calls = Object.entries(callNumber).map(([name, value]) => pair(`SYS_${name}`, value));
  return [
    ...calls,
    ...Object.entries(helper).map(([name, value]) => pair(`BPF_FUNC_${name}`, value)),
    pair('MOUNT_ATTR_RDONLY', mountAttribute.readOnly),
    pair('MOUNT_ATTR_NOSUID', mountAttribute.noSuid),
    pair('MOUNT_ATTR_NODEV', mountAttribute.noDev),
    pair('MOUNT_ATTR_NOEXEC', mountAttribute.noExec),
    pair('MOUNT_ATTR_NOSYMFOLLOW', mountAttribute.noSymlinkFollow),
    pair('FSCONFIG_SET_FLAG', fsconfigCommand.setFlag),
    pair('FSCONFIG_SET_STRING', fsconfigCommand.setString),
    pair('FSCONFIG_SET_FD', fsconfigCommand.setFd),
    pair('FSCONFIG_CMD_CREATE', fsconfigCommand.create),
    pair('RESOLVE_NO_XDEV', resolve.noCrossMounts),
    pair('RESOLVE_NO_MAGICLINKS', resolve.noMagicLinks),
    pair('RESOLVE_NO_SYMLINKS', resolve.noSymlinks),
    pair('RESOLVE_BENEATH', resolve.beneath),
    pair('RESOLVE_IN_ROOT', resolve.inRoot),
    pair('CLONE_NEWNS', namespaceFlag.mount),
    pair('CLONE_NEWCGROUP', namespaceFlag.cgroup),
    pair('CLONE_NEWUTS', namespaceFlag.uts),
    pair('CLONE_NEWIPC', namespaceFlag.ipc),
    pair('CLONE_NEWUSER', namespaceFlag.user),
    pair('CLONE_NEWPID', namespaceFlag.pid),
    pair('CLONE_NEWNET', namespaceFlag.network),
    pair('RLIMIT_FSIZE', resource.fileSize),
    pair('RLIMIT_CORE', resource.core),
    pair('RLIMIT_NPROC', resource.processes),
    pair('RLIMIT_NOFILE', resource.openFiles),
    pair('RLIMIT_MEMLOCK', resource.lockedMemory),
    pair('RLIMIT_SIGPENDING', resource.pendingSignals),
    pair('RLIMIT_MSGQUEUE', resource.messageQueueBytes),
    pair('BPF_MAXINSNS', filterInstructionsMax),
  ];
}

function structureLayouts(): Claim[] {
  const { msghdr, iovec, cmsghdr } = messageLayout;
  const how = 'struct open_how';
  const encoded = encodeOpenHow({ flags: 0, mode: 0x11, resolve: 0x22 });
  return [
    ...layout('struct mount_attr', mountAttrLayout.size, {
      attr_set: mountAttrLayout.set,
      propagation: mountAttrLayout.propagation,
      userns_fd: mountAttrLayout.userNamespaceFd,
    }),
    ...layout(how, encoded.length, {
      flags: 0,
      mode: encoded.indexOf(0x11),
      resolve: encoded.indexOf(0x22),
    }),
    pair('offsetof(struct file_handle, handle_bytes)', fileHandleLayout.handleBytes),
    pair('offsetof(struct file_handle, handle_type)', fileHandleLayout.handleType),
    pair('offsetof(struct file_handle, f_handle)', fileHandleLayout.handle),
    ...layout('struct msghdr', msghdr.size, {
      msg_iov: msghdr.iov,
      msg_iovlen: msghdr.iovlen,
      msg_control: msghdr.control,
      msg_controllen: msghdr.controllen,
      msg_flags: msghdr.flags,
    }),
    ...layout('struct iovec', iovec.size, { iov_base: iovec.base, iov_len: iovec.len }),
    ...layout('struct cmsghdr', cmsghdr.size, {
      cmsg_len: cmsghdr.len,
      cmsg_level: cmsghdr.level,
      cmsg_type: cmsghdr.type,
    }),
    ...layout('struct sock_fprog', filterProgramLayout.size, {
      len: filterProgramLayout.length,
      filter: filterProgramLayout.filter,
    }),
    ...layout('struct btf_type', typeLayout.size, { info: typeLayout.info }),
    ...layout('struct btf_member', memberLayout.size, memberLayout.at),
    ...layout('struct bpf_btf_info', btfInfoLayout.size, btfInfoLayout.at),
    ...layout('struct seccomp_notif', notificationLayout.size, {
      id: notificationLayout.id,
      pid: notificationLayout.pid,
      'data.nr': notificationLayout.number,
    }),
    ...layout('struct seccomp_notif_resp', notificationAnswerLayout.size, {
      id: notificationAnswerLayout.id,
      error: notificationAnswerLayout.error,
    }),
    ...layout('struct landlock_path_beneath_attr', pathBeneathLayout.size, {
      allowed_access: pathBeneathLayout.allowedAccess,
      parent_fd: pathBeneathLayout.parentFd,
    }),
    ...layout('struct scmp_arg_cmp', comparisonLayout.size, {
      arg: comparisonLayout.argument,
      op: comparisonLayout.operator,
      datum_a: comparisonLayout.a,
      datum_b: comparisonLayout.b,
    }),
    ...layout('struct rlimit', resourceLimitLayout.size, {
      rlim_cur: resourceLimitLayout.soft,
      rlim_max: resourceLimitLayout.hard,
    }),
    ...layout('struct pollfd', pollFdLayout.size, {
      fd: pollFdLayout.fd,
      events: pollFdLayout.events,
      revents: pollFdLayout.revents,
    }),
    ...layout('struct ifreq', interfaceRequestLayout.size, {
      ifr_name: interfaceRequestLayout.name,
      ifr_flags: interfaceRequestLayout.flags,
    }),
    ...layout('struct signalfd_siginfo', signalInfoBytes, { ssi_signo: 0 }),
    ...btrfsLayouts.flatMap((one) => layout(...one)),
    ...layout('struct fsxattr', fileAttributesLayout.size, {
      fsx_xflags: fileAttributesLayout.flags,
      fsx_projid: fileAttributesLayout.projectId,
    }),
    ...layout('struct fs_quota_stat', quotaStateLayout.size, { qs_flags: quotaStateLayout.flags }),
    ...layout('struct if_dqblk', diskQuotaLayout.size, {
      dqb_bhardlimit: diskQuotaLayout.bytesMax,
      dqb_curspace: diskQuotaLayout.usedBytes,
      dqb_ihardlimit: diskQuotaLayout.filesMax,
      dqb_curinodes: diskQuotaLayout.usedFiles,
      dqb_valid: diskQuotaLayout.valid,
    }),
  ];
}

/** Of the messages to the network stack: the fields are called as in C, but for capitals. */
function netlinkLayouts(): Claim[] {
  const { nlmsghdr, nlmsgerr, nlattr } = netlinkLayout;
  const { ifinfomsg, ifaddrmsg, rtmsg, ndmsg } = rtnetlinkLayout;
  return [
    ...layout('struct nlmsghdr', nlmsghdr.size, {
      nlmsg_len: nlmsghdr.len,
      nlmsg_type: nlmsghdr.type,
      nlmsg_flags: nlmsghdr.flags,
      nlmsg_seq: nlmsghdr.seq,
    }),
    ...layout('struct nlmsgerr', nlmsgerr.size, { error: nlmsgerr.error }),
    ...layout('struct nlattr', nlattr.size, { nla_len: nlattr.len, nla_type: nlattr.type }),
    ...layout('struct ifinfomsg', ifinfomsg.size, {
      ifi_index: ifinfomsg.index,
      ifi_flags: ifinfomsg.flags,
      ifi_change: ifinfomsg.change,
    }),
    ...layout('struct ifaddrmsg', ifaddrmsg.size, {
      ifa_family: ifaddrmsg.family,
      ifa_prefixlen: ifaddrmsg.prefixlen,
      ifa_index: ifaddrmsg.index,
    }),
    ...layout('struct rtmsg', rtmsg.size, {
      rtm_family: rtmsg.family,
      rtm_table: rtmsg.table,
      rtm_protocol: rtmsg.protocol,
      rtm_scope: rtmsg.scope,
      rtm_type: rtmsg.type,
    }),
    ...layout('struct ndmsg', ndmsg.size, {
      ndm_family: ndmsg.family,
      ndm_ifindex: ndmsg.ifindex,
      ndm_state: ndmsg.state,
      ndm_flags: ndmsg.flags,
    }),
    ...layout('struct tcmsg', trafficControlLayout.size, {
      tcm_ifindex: trafficControlLayout.ifindex,
      tcm_handle: trafficControlLayout.handle,
      tcm_parent: trafficControlLayout.parent,
      tcm_info: trafficControlLayout.info,
    }),
    ...layout('struct sock_filter', 8, { code: 0, jt: 2, jf: 3, k: 4 }),
  ];
}
