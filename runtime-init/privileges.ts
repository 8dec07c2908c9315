/** The last steps before foreign code: the user namespace, no rights, the seccomp filter. */
import { closeSync } from 'node:fs';
import type { ContainerIdentity } from '../host/protocol/zygote.ts';
import { joinNamespace, mayUnshare, namespaceFlag } from '../host/sys/namespace.ts';
import {
  becomeUnprivileged,
  remainingPrivileges,
  setDumpable,
  setNoNewPrivileges,
} from '../host/sys/process.ts';
import { loadSeccompFilter } from '../host/sys/seccomp-filter.ts';

export interface Drop {
  /** Closed once it is joined. */
  userNamespace: number;
  identity: ContainerIdentity;
  /** The program as the kernel takes it. */
  seccomp: Buffer;
}

/**
 * The user namespace comes last, so that all others belong to the host: not even a capable process
 * could mount, rename the host or touch the network. Cannot be undone.
 */
export function dropPrivileges({ userNamespace, identity, seccomp }: Drop): void {
  joinNamespace(userNamespace, namespaceFlag.user);
  closeSync(userNamespace);
  becomeUnprivileged({ uid: identity.uid, gid: identity.gid });
  setDumpable(false);
  setNoNewPrivileges();
  loadSeccompFilter(seccomp);
  verifyDropped();
}

/** Reads back what `dropPrivileges` did, and throws when any right is left. */
export function verifyDropped(): void {
  const { capabilities, noNewPrivileges, seccompFilter } = remainingPrivileges();
  if (capabilities > 0) throw new Error('A capability is left');
  if (!noNewPrivileges) throw new Error('no_new_privs is not set');
  if (!seccompFilter) throw new Error('No seccomp filter is in force');
  // A forked process had a filter from the beginning: only the last one refuses this.
  if (mayUnshare()) throw new Error('The last seccomp filter is not in force');
}
