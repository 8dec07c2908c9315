/**
 * System call numbers that libc 2.36 has no wrapper for; those above 423 are the same everywhere.
 */
import { arch } from 'node:process';

// <asm/unistd_64.h> and <asm-generic/unistd.h>
const perArchitecture = {
  x64: {
    pivot_root: 155,
    mknodat: 259,
    keyctl: 250,
    seccomp: 317,
    madvise: 28,
    capset: 126,
    capget: 125,
    gettid: 186,
    ioctl: 16,
    mount: 165,
    umount2: 166,
    prctl: 157,
    setgroups: 116,
    setresuid: 117,
    sethostname: 170,
    setdomainname: 171,
    setns: 308,
    unshare: 272,
  },
  arm64: {
    pivot_root: 41,
    mknodat: 33,
    keyctl: 219,
    seccomp: 277,
    madvise: 233,
    capset: 91,
    capget: 90,
    gettid: 178,
    ioctl: 29,
    mount: 40,
    umount2: 39,
    prctl: 167,
    setgroups: 159,
    setresuid: 147,
    sethostname: 161,
    setdomainname: 162,
    setns: 268,
    unshare: 97,
  },
} as const;

const common = {
  pidfd_send_signal: 424,
  io_uring_setup: 425,
  open_tree: 428,
  move_mount: 429,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  pidfd_open: 434,
  clone3: 435,
  close_range: 436,
  openat2: 437,
  mount_setattr: 442,
  quotactl_fd: 443,
  landlock_create_ruleset: 444,
  landlock_add_rule: 445,
  landlock_restrict_self: 446,
} as const;

export type CallName = keyof typeof common | keyof (typeof perArchitecture)['x64'];

if (arch !== 'x64' && arch !== 'arm64')
  throw new Error(`Hatchery runs on x64 and arm64: this is ${arch}`);

export const callNumber: Record<CallName, number> = { ...common, ...perArchitecture[arch] };
