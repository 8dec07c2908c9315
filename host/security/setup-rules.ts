/** What a container still has to do itself, and its function may not: sealed off in between. */
import { is, rule, type ArgumentRule } from './profile.ts';

// <linux/prctl.h>
const prctlOptions = {
  PR_SET_DUMPABLE: 4n,
  PR_CAPBSET_DROP: 24n,
  PR_SET_SECUREBITS: 28n,
  PR_CAP_AMBIENT: 47n,
} as const;
// <linux/mount.h>: MS_REC | MS_PRIVATE
const makePrivate = 0x4_4000n;
// <linux/sockios.h>
const SIOCSIFFLAGS = 0x8914n;

/** None of it may be in a profile. */
export const setupRules: readonly ArgumentRule[] = [
  rule('setns', 'namespaces: join'),
  rule('unshare', 'namespaces: make'),
  rule('sethostname', 'namespaces: name'),
  rule('setdomainname', 'namespaces: name'),
  rule('ioctl', 'namespaces: loopback', is(1, SIOCSIFFLAGS)),
  rule('mount', 'mounts: keep to ourselves', is(3, makePrivate)),
  rule('fsopen', 'mounts: make'),
  rule('fsconfig', 'mounts: make'),
  rule('fsmount', 'mounts: make'),
  rule('open_tree', 'mounts: clone'),
  rule('mount_setattr', 'mounts: what they allow'),
  rule('move_mount', 'mounts: attach'),
  rule('pivot_root', 'root: enter'),
  rule('umount2', 'root: leave the old one'),
  rule('keyctl', 'rights: a keyring of its own'),
  rule('setgroups', 'rights: drop'),
  rule('capset', 'rights: drop'),
  ...Object.entries(prctlOptions).map(([name, value]) => rule('prctl', name, is(0, value))),
  rule('seccomp', 'rights: this filter'),
];
