/**
 * What a container still has to do itself, and its function may not. Our code marks these calls;
 * the base filter lets them through by the mark, and the seal, loaded last, takes that back.
 */
import { setupMark } from '../sys/libc.ts';
import { is, rule, type ArgumentRule } from './profile.ts';

const calls = {
  setns: 'namespaces: join',
  unshare: 'namespaces: make',
  sethostname: 'namespaces: name',
  setdomainname: 'namespaces: name',
  ioctl: 'namespaces: loopback',
  mount: 'mounts: keep to ourselves',
  fsopen: 'mounts: make',
  fsconfig: 'mounts: make',
  fsmount: 'mounts: make',
  open_tree: 'mounts: clone',
  mount_setattr: 'mounts: what they allow',
  move_mount: 'mounts: attach',
  pivot_root: 'root: enter',
  umount2: 'root: leave the old one',
  keyctl: 'rights: a keyring of its own',
  setgroups: 'rights: drop',
  capset: 'rights: drop',
  prctl: 'rights: drop',
  seccomp: 'rights: the seal',
};

const allBits = 0xffff_ffff_ffff_ffffn;

// <linux/stat.h>
const fileTypeMask = 0o170_000n;
const characterDevice = 0o020_000n;
const marked = is(5, setupMark, allBits);

/** None of it may be in a profile. */
export const setupRules: readonly ArgumentRule[] = [
  ...Object.entries(calls).map(([call, reason]) => rule(call, reason, marked)),
  rule('mknodat', 'mounts: the devices of /dev', is(2, characterDevice, fileTypeMask), marked),
];
