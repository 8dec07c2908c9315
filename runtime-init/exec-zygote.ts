/**
 * The zygote of a Node.js that does not survive a fork: it executes a new one for each container.
 * Everything that needs rights is done here, in the container's namespaces but by this process, and
 * before the container's own programs are in reach: PID 1 is executed without rights, from the base
 * image, and starts the function process, which waits. Once that has its function, its root is
 * changed from here, under its feet.
 */
import { spawn } from 'node:child_process';
import { closeSync, writeSync } from 'node:fs';
import { messageOf } from '../host/base/errors.ts';
import type { Step } from '../host/base/channels.ts';
import { StepTimer } from '../host/base/step-timer.ts';
import type { Specialisation } from '../host/protocol/invoke.ts';
import {
  listenerAnswerId,
  type ZygoteHello,
  type ZygoteRequest,
  type ZygoteSetup,
} from '../host/protocol/zygote.ts';
import { exitNow, openPidFd, reapChild } from '../host/sys/fork.ts';
import { cloneMount, makeRootPrivate, setMountAttributes } from '../host/sys/mount.ts';
import {
  bringLoopbackUp,
  joinNamespace,
  namespaceFlag,
  openOwnNamespace,
  OwnNamespaces,
  setDomainName,
  setHostname,
  unshare,
  unshareWorkingDirectory,
} from '../host/sys/namespace.ts';
import {
  duplicateAbove,
  joinNewSessionKeyring,
  setUmask,
  waitReadable,
} from '../host/sys/process.ts';
import { receiveMessage, socketPair } from '../host/sys/socket.ts';
import { bootCommand, type Boot } from './boot.ts';
import { fdFor, groupByRole } from './container-start.ts';
import { makeNetworkNamespace } from './network-namespace.ts';
import { enterRoot, makeMounts, nameHosts, waitForFunction, type Mounts } from './park.ts';
import { coverProc, procAttributes } from './proc-mount.ts';
import { answer, answerWithFd, nextRequest, zygoteSocketFd } from './zygote-socket.ts';

/** A container without a function yet. */
interface Waiting {
  /** Where the host will send the function. */
  invoke: number;
  mountNamespace: number;
  mounts: Mounts;
  /** The function process says here that it has booted, and hears what it is to be. */
  assign: number;
  /** Until then both processes need the root that they were started in. */
  booted: boolean;
}

/** What the function process is told, as JSON, when its root is there. */
export interface Assigned {
  specialisation: Specialisation;
  landlockAbi: number;
  /** The filter that it loads before the function, base64. */
  seal: string;
  steps: Step[];
}

/** Never returns. */
export function serveByExec(setup: ZygoteSetup, reason: string): never {
  // A thread that shares its root directory with others may not change its mount namespace back.
  unshareWorkingDirectory();
  const own = new OwnNamespaces(['mount', 'uts', 'ipc', 'network', 'pid']);
  const network = openOwnNamespace('network');
  const waiting: Waiting[] = [];
  answer({ id: 0, mode: 'exec', reason } satisfies ZygoteHello);
  for (;;) {
    const readable = waitReadable([zygoteSocketFd, ...waiting.map(awaited)], -1);
    while (reapChild() !== undefined);
    for (const container of waiting.filter((each) => readable.includes(awaited(each)))) {
      if (!container.booted && hear(container)) continue;
      waiting.splice(waiting.indexOf(container), 1);
      if (container.booted) assign(container, own, setup);
      close(container);
    }
    if (!readable.includes(zygoteSocketFd)) continue;
    const received = nextRequest();
    if (received === undefined) exitNow(0);
    const { request, fds } = received;
    try {
      if (request.type === 'boot') waiting.push(boot({ request, fds, setup, own }));
      else if (request.type === 'networkNamespace')
        answerWithFd(makeNetworkNamespace(network), { id: request.id });
      else throw new Error(`A zygote that does not fork has no ${request.type}`);
    } catch (error) {
      answer({ id: request.id, error: messageOf(error) });
    }
    for (const fd of fds) closeSync(fd);
  }
}

/** What happens next to a container happens on this descriptor. */
function awaited({ booted, assign: assignFd, invoke }: Waiting): number {
  return booted ? invoke : assignFd;
}

/** First comes the listener to PID 1's filter, then a word when both have booted. */
function hear(container: Waiting): boolean {
  const message = receiveMessage(container.assign);
  if (message === undefined) return false;
  const [listener] = message.fds;
  if (listener === undefined) container.booted = true;
  else answerWithFd(listener, { id: listenerAnswerId });
  return true;
}

function close(container: Waiting): void {
  const mounts = container.mounts.map(([, fd]) => fd);
  const { invoke, assign: assignFd, mountNamespace } = container;
  for (const fd of [invoke, assignFd, mountNamespace, ...mounts]) closeSync(fd);
}

interface BootRequest {
  request: Extract<ZygoteRequest, { type: 'boot' }>;
  fds: readonly number[];
  setup: ZygoteSetup;
  own: OwnNamespaces;
}

/** Starts PID 1 in fresh namespaces; both of its processes boot while the host goes on. */
function boot({ request, fds, setup, own }: BootRequest): Waiting {
  const byRole = groupByRole(request.fds, fds);
  const [assignNear, assignFar] = socketPair('stream');
  try {
    const network = byRole.get('networkNamespace')?.[0];
    if (network === undefined) {
      unshare(namespaceFlag.network);
      bringLoopbackUp();
    } else joinNamespace(network, namespaceFlag.network);
    unshare(namespaceFlag.mount | namespaceFlag.uts | namespaceFlag.ipc | namespaceFlag.pid);
    makeRootPrivate();
    setHostname(request.container.id);
    setDomainName('');
    joinNewSessionKeyring();
    setUmask(0o022);
    const mountNamespace = openOwnNamespace('mount');
    const joinFds = byRole.get('joinCgroup') ?? [];
    const what: Boot = { setup, identity: request.container, joinCount: joinFds.length };
    const [program, ...args] = bootCommand(what);
    const stdout = fdFor(byRole, 'stdout');
    const child = spawn(program, args, {
      detached: true,
      stdio: [
        'ignore',
        stdout,
        stdout,
        fdFor(byRole, 'control'),
        fdFor(byRole, 'invoke'),
        assignFar,
        fdFor(byRole, 'userNamespace'),
        fdFor(byRole, 'answers'),
        ...joinFds,
      ],
    });
    if (child.pid === undefined) throw new Error(`Cannot execute "${program}"`);
    const mounts = makeMounts(setup.tmpfsBytes);
    answerWithFd(openPidFd(child.pid), { id: request.id, pid: child.pid });
    const invoke = duplicateAbove(fdFor(byRole, 'invoke'), 3);
    return { invoke, mountNamespace, mounts, assign: assignNear, booted: false };
  } finally {
    own.rejoin();
    closeSync(assignFar);
  }
}

/** The function has come: its root takes the place of the one that its processes booted in. */
function assign(container: Waiting, own: OwnNamespaces, setup: ZygoteSetup): void {
  const timer = new StepTimer();
  try {
    const received = waitForFunction(container.invoke);
    if (received === undefined) return;
    const { specialisation, rootFd, mounts } = received;
    if (specialisation.network !== undefined) nameHosts(rootFd, specialisation.network);
    joinNamespace(container.mountNamespace, namespaceFlag.mount);
    try {
      // PID 1 has mounted it: only a process inside can have the right one.
      coverProc();
      const proc = cloneMount({ path: '/proc', recursive: true });
      setMountAttributes(proc, { attributes: procAttributes });
      enterRoot(rootFd, [['proc', proc], ...container.mounts.splice(0), ...mounts]);
    } finally {
      own.rejoin();
    }
    timer.finish('rootfs');
    const seal = setup.seccomp.seals[specialisation.seccomp];
    const { landlockAbi } = setup;
    const assigned: Assigned = { specialisation, landlockAbi, seal, steps: timer.steps };
    writeSync(container.assign, JSON.stringify(assigned));
  } catch (error) {
    // Its end of the pipe closes without a word: the process ends, and the host hears of that.
    process.stderr.write(`Cannot assign a function: ${messageOf(error)}\n`);
  }
}
