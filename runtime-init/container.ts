/**
 * A container's first process, from the fork to the moment it waits: cgroup, namespaces, the second
 * fork. The parent becomes PID 1; the child parks until a function is assigned to it. All of it
 * runs as root of the host and is our own code; PID 1 gives its rights up here, the child when
 * assigned.
 */
import { writeSync } from 'node:fs';
import { nowNs } from '../host/base/clock.ts';
import type { Step } from '../host/base/channels.ts';
import { exitNow, fork } from '../host/sys/fork.ts';
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
  restoreSignal,
  setUmask,
} from '../host/sys/process.ts';
import { fdFor, type ContainerStart } from './container-start.ts';
import { runInit } from './init.ts';
import { park } from './park.ts';

/** Exit status of a container that could not be built; the reason is on its standard error. */
const buildFailedStatus = 125;

const SIGCHLD = 17;

/** Returns in the function process only, parked and assigned; PID 1 never returns. */
export function startContainer(container: ContainerStart): void {
  try {
    const steps = enterNamespaces(container);
    // The zygote ignores it, and with that PID 1 would never learn how its children ended.
    restoreSignal(SIGCHLD);
    if (fork() === 0) park(container, steps);
    else runInit(container);
  } catch (error) {
    writeSync(2, `${String(error)}\n`);
    exitNow(buildFailedStatus);
  }
}

function enterNamespaces({ identity, fds, startNs }: ContainerStart): Step[] {
  const steps: Step[] = [];
  let last = startNs;
  const finish = (name: string): void => {
    const now = nowNs();
    steps.push({ name, startNs: last, endNs: now });
    last = now;
  };
  finish('init');
  const stdout = fdFor(fds, 'stdout');
  duplicateTo(stdout, 1);
  duplicateTo(stdout, 2);
  // Each process moves itself, by "0": on cgroup v1 that spares the lock all processes share.
  // Before the cgroup namespace, whose root is the group its creator is in.
  for (const fd of fds.get('joinCgroup') ?? []) writeSync(fd, '0');
  finish('cgroup');
  const network = fds.get('networkNamespace')?.[0];
  if (network === undefined) {
    unshare(namespaceFlag.network);
    bringLoopbackUp();
  } else {
    joinNamespace(network, namespaceFlag.network);
  }
  finish('network');
  unshare(namespaceFlag.mount | namespaceFlag.uts | namespaceFlag.ipc | namespaceFlag.cgroup);
  makeRootPrivate();
  setHostname(identity.id);
  setDomainName('');
  becomeSessionLeader();
  // A key in the zygote's session keyring would be every function's.
  joinNewSessionKeyring();
  setUmask(0o022);
  finish('namespaces');
  return steps;
}
