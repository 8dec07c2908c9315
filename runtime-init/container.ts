/**
 * A container's namespaces, made by the function's process around itself; PID 1 follows into them.
 * All of this is our own code, still with the host's rights.
 */
import { writeSync } from 'node:fs';
import type { Step } from '../host/base/channels.ts';
import { StepTimer } from '../host/base/step-timer.ts';
import {
  bringLoopbackUp,
  joinNamespace,
  namespaceFlag,
  setDomainName,
  setHostname,
  unshare,
} from '../host/sys/namespace.ts';
import { closeRole, tellOther, type ContainerStart } from './container-start.ts';
import { park, type BlankFunction } from './park.ts';

const madeNamespaces = namespaceFlag.uts | namespaceFlag.ipc | namespaceFlag.cgroup;
/** Those that PID 1 joins; the function's process has that of mounts from before. */
export const ownNamespaces = madeNamespaces | namespaceFlag.mount;

/** Returns when the function is loaded, into the event loop that serves its calls. */
export function buildContainer(blank: BlankFunction, start: ContainerStart): void {
  const steps = enterNamespaces(start);
  tellOther(blank.link);
  park(blank, start, steps);
}

/** In the container's group from here on. */
export function joinCgroup({ fds }: ContainerStart): void {
  // Each process moves itself, by "0": on cgroup v1 that spares the lock all processes share.
  for (const fd of fds.get('joinCgroup') ?? []) writeSync(fd, '0');
  closeRole(fds, 'joinCgroup');
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

function enterNamespaces(start: ContainerStart): Step[] {
  const timer = new StepTimer(start.startNs);
  timer.finish('fork');
  // Before the cgroup namespace: its root is the group that its creator is in.
  joinCgroup(start);
  timer.finish('cgroup');
  joinNetwork(start);
  timer.finish('network');
  unshare(madeNamespaces);
  setHostname(start.identity.id);
  setDomainName('');
  timer.finish('namespaces');
  return timer.steps;
}
