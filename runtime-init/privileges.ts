/** The last steps before foreign code: the user namespace, no rights, the seccomp filter. */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import type { ContainerIdentity } from '../host/protocol/zygote.ts';
import { O_CLOEXEC, O_PATH, openAt, resolve } from '../host/sys/file.ts';
import { joinNamespace, mayUnshare, namespaceFlag } from '../host/sys/namespace.ts';
import {
  becomeUnprivileged,
  remainingPrivileges,
  setDumpable,
  setNoNewPrivileges,
} from '../host/sys/process.ts';
import { loadSeccompFilter } from '../host/sys/seccomp-filter.ts';
import { enterLabel, type OpenLabel } from './security-label.ts';

export interface Drop {
  /** Closed once it is joined. */
  userNamespace: number;
  identity: ContainerIdentity;
  label: OpenLabel | undefined;
  /** The seal, base64. */
  seccomp: string;
  /** From `openNamespaceLimits`; closed. One process of a container sets them for both. */
  namespaceLimits?: number;
}

const namespaceKinds = ['user', 'pid', 'uts', 'ipc', 'net', 'mnt', 'cgroup', 'time'];

/**
 * The user namespace comes last, so that all others belong to the host: not even a capable process
 * could mount, rename the host or touch the network. Cannot be undone.
 */
export function dropPrivileges(drop: Drop): void {
  const { userNamespace, identity, label, seccomp, namespaceLimits } = drop;
  joinNamespace(userNamespace, namespaceFlag.user);
  closeSync(userNamespace);
  if (namespaceLimits !== undefined) forbidNamespaces(namespaceLimits);
  becomeUnprivileged({ uid: identity.uid, gid: identity.gid });
  setDumpable(false);
  if (label !== undefined) enterLabel(label);
  setNoNewPrivileges();
  loadSeccompFilter(Buffer.from(seccomp, 'base64'));
  verifyDropped();
}

/** While /proc can still be written to. */
export function openNamespaceLimits(): number {
  return openSync('/proc/sys/user', O_PATH | O_CLOEXEC | constants.O_DIRECTORY);
}

/** In the user namespace joined last none can be made, not even with all rights in it. */
function forbidNamespaces(limits: number): void {
  for (const kind of namespaceKinds) {
    const how = { flags: constants.O_WRONLY | O_CLOEXEC, resolve: resolve.beneath };
    const fd = openAt(limits, `max_${kind}_namespaces`, how);
    writeSync(fd, '0');
    closeSync(fd);
  }
  closeSync(limits);
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
