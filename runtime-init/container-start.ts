/** What the parts of a container's start hand to each other. */
import type { LibuvFds } from './inherited-fds.ts';
import type { ContainerIdentity, FdRole, ZygoteSetup } from '../host/protocol/zygote.ts';

export interface ContainerStart {
  setup: ZygoteSetup;
  identity: ContainerIdentity;
  fds: Map<FdRole, number[]>;
  /** Descriptors of libuv that a forked child must keep. */
  libuv: LibuvFds;
  /** When the zygote took the request. */
  startNs: number;
}

export function groupByRole(
  roles: readonly FdRole[],
  fds: readonly number[],
): Map<FdRole, number[]> {
  const byRole = new Map<FdRole, number[]>();
  roles.forEach((role, index) => {
    const fd = fds[index];
    if (fd === undefined) throw new Error(`The descriptor for "${role}" did not arrive`);
    byRole.set(role, [...(byRole.get(role) ?? []), fd]);
  });
  return byRole;
}

export function fdFor(fds: Map<FdRole, number[]>, role: FdRole): number {
  const fd = fds.get(role)?.[0];
  if (fd === undefined) throw new Error(`No descriptor for "${role}" was sent`);
  return fd;
}
