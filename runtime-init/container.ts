/**
 * A container's namespaces, made by the function's process around itself; PID 1 follows into them.
 * All of this is our own code, still with the host's rights.
 */
import { writeSync } from 'node:fs';
import { nowNs } from '../host/base/clock.ts';
import type { Step } from '../host/base/channels.ts';
import { makeRootPrivate } from '../host/sys/mount.ts';
import {
  bringLoopbackUp,
  joinNamespace,
  namespaceFlag,
  setDomainName,
  setHostname,
  unshare,
} from '../host/sys/namespace.ts';
import {
  becomeSessionLeader,
  duplicateTo,
  joinNewSessionKeyring,
  setUmask,
} from '../host/sys/process.ts';
import { closeRole, fdFor, tellOther, type ContainerStart } from './container-start.ts';
import { park } from './park.ts';

/** Those that PID 1 joins when they are made. */
export const madeNamespaces =
  namespaceFlag.mount | namespaceFlag.uts | namespaceFlag.ipc | namespaceFlag.cgroup;

/** Returns when the function is loaded, into the event loop that serves its calls. */
export function buildContainer(container: ContainerStart): void {
  const steps = enterNamespaces(container);
  tellOther(container.link);
  park(container, steps);
}

/** In the container's group from here on, by its own hand, and with its output. */
export function joinGroups({ fds }: ContainerStart): void {
  const stdout = fdFor(fds, 'stdout');
  duplicateTo(stdout, 1);
  duplicateTo(stdout, 2);
  closeRole(fds, 'stdout');
  // Each process moves itself, by "0": on cgroup v1 that spares the lock all processes share.
  for (const fd of fds.get('joinCgroup') ?? []) writeSync(fd, '0');
  closeRole(fds, 'joinCgroup');
  becomeSessionLeader();
  // A key in the zygote's session keyring would be every function's.
  joinNewSessionKeyring();
  setUmask(0o022);
}

/** Enters the network namespace that was sent, or makes one. PID 1 gets there by our pidfd. */
function joinNetwork({ fds }: ContainerStart): void {
  const network = fds.get('networkNamespace')?.[0];
  if (network === undefined) {
    unshare(namespaceFlag.network);
    bringLoopbackUp();
    return;
  }
  joinNamespace(network, namespaceFlag.network);
  closeRole(fds, 'networkNamespace');
}

function enterNamespaces(container: ContainerStart): Step[] {
  const steps: Step[] = [];
  let last = container.startNs;
  const finish = (name: string): void => {
    const now = nowNs();
    steps.push({ name, startNs: last, endNs: now });
    last = now;
  };
  finish('fork');
  // Before the cgroup namespace: its root is the group that its creator is in.
  joinGroups(container);
  finish('cgroup');
  joinNetwork(container);
  finish('network');
  unshare(madeNamespaces);
  makeRootPrivate();
  setHostname(container.identity.id);
  setDomainName('');
  finish('namespaces');
  return steps;
}
