/** What the parts of a container's start hand to each other. */
import { closeSync, readSync, writeSync } from 'node:fs';
import type { ContainerIdentity, FdRole, ZygoteSetup } from '../host/protocol/zygote.ts';

export interface ContainerStart {
  setup: ZygoteSetup;
  identity: ContainerIdentity;
  fds: Map<FdRole, number[]>;
  /** Between PID 1 and the function's process: each tells the other one thing, once. */
  link: number;
  /** When the zygote took the request. */
  startNs: number;
}

/** "My namespaces are made" from the function's process, "my rights are gone" from PID 1. */
export function tellOther(link: number): void {
  writeSync(link, '.');
}

/** Waits for the other to have told. Throws when it ended instead. */
export function hearOther(link: number): void {
  if (readSync(link, Buffer.alloc(1)) === 0) throw new Error('The other process has ended');
}

/** Gives up all descriptors of a role: one of a namespace or a group is a right. */
export function closeRole(fds: Map<FdRole, number[]>, role: FdRole): void {
  for (const fd of fds.get(role) ?? []) closeSync(fd);
  fds.delete(role);
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
