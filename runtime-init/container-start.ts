/** What the parts of a container's start hand to each other. */
import { closeSync, readSync, writeSync } from 'node:fs';
import type {
  ContainerIdentity,
  ContainerOrder,
  FdRole,
  ZygoteSetup,
} from '../host/protocol/zygote.ts';
import { waitReadable } from '../host/sys/process.ts';
import { receiveMessage } from '../host/sys/socket.ts';
import type { OpenLabel } from './security-label.ts';

/** One of the two processes of a blank pair, ready to be a container's. */
export interface BlankProcess {
  /** To the host: PID 1's control socket, the function's invoke socket. */
  socket: number;
  /** Between PID 1 and the function's process: each tells the other one thing, once. */
  link: number;
  /** The last of the filters that it ends up under, by profile; it inherits the others. */
  seccomp: ZygoteSetup['seccomp']['seals'];
  label: OpenLabel | undefined;
}

/** What it has been told to become. */
export interface ContainerStart {
  identity: ContainerIdentity;
  fds: Map<FdRole, number[]>;
  /** When the host gave the order. */
  startNs: number;
}

/** Blocks until the host gives the order; undefined when it closes the socket instead. */
export function receiveOrder(socket: number): ContainerStart | undefined {
  // The event loop's sockets are non-blocking.
  waitReadable([socket], -1);
  const message = receiveMessage(socket);
  if (message === undefined) return undefined;
  const { container, fds, startNs } = JSON.parse(message.bytes.toString()) as ContainerOrder;
  return { identity: container, fds: groupByRole(fds, message.fds), startNs };
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
