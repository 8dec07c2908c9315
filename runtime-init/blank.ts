/**
 * The two processes of a container, forked ahead of it: PID 1 and the function's process in a pid
 * namespace of their own, with whatever is the same for all containers, and nothing else yet. They
 * hold no other namespace, no group, no root and no user; what they are to become is made when the
 * host orders it. Namespaces are pooled, and a pid namespace lives by its processes.
 */
import { closeSync } from 'node:fs';
import { messageOf } from '../host/base/errors.ts';
import type { FdRole, ZygoteSetup } from '../host/protocol/zygote.ts';
import { adoptEventLoop, exitNow, fork, openPidFd, renewRandomness } from '../host/sys/fork.ts';
import { makeRootPrivate } from '../host/sys/mount.ts';
import { joinNamespace, namespaceFlag, unshare } from '../host/sys/namespace.ts';
import { oomScore, setOomScore } from '../host/sys/oom-score.ts';
import {
  becomeSessionLeader,
  currentPid,
  duplicateTo,
  joinNewSessionKeyring,
  resource,
  restoreSignal,
  setResourceLimit,
  setUmask,
  waitForBell,
  waitReadable,
} from '../host/sys/process.ts';
import { socketPair } from '../host/sys/socket.ts';
import { buildContainer } from './container.ts';
import {
  fdFor,
  hearOther,
  receiveOrder,
  type BlankProcess,
  type ContainerStart,
} from './container-start.ts';
import { closeInherited, type LibuvFds } from './inherited-fds.ts';
import { runInit } from './init.ts';
import { makeMounts, type Mounts } from './park.ts';
import { openNamespaceLimits } from './privileges.ts';
import { mountProc } from './proc-mount.ts';
import { rehearseInBlank } from './rehearse-start.ts';
import { openLabel } from './security-label.ts';
import { FunctionServer } from './serve.ts';

const SIGCHLD = 17;
const SIGSEGV = 11;

export interface BlankOptions {
  /** The zygote's own, to come back to. */
  pidNamespace: number;
  setup: ZygoteSetup;
  libuv: LibuvFds;
  /** `control`, `invoke`, `answers`, `bell` and `stdout`; they stay the caller's. */
  fds: Map<FdRole, number[]>;
}

/** Gives PID 1; undefined in the function's process, once it has loaded its function. */
export function forkBlank(options: BlankOptions): { pid: number; pidFd: number } | undefined {
  unshare(namespaceFlag.pid);
  const pid = fork();
  if (pid === 0) {
    becomePair(options);
    return undefined;
  }
  joinNamespace(options.pidNamespace, namespaceFlag.pid);
  return { pid, pidFd: openPidFd(pid) };
}

/**
 * In PID 1. Returns in its child only. Nothing is closed before the second fork: libuv makes a new
 * signal lock at each, with the lowest free numbers, and those have to stay the known ones.
 */
function becomePair({ setup, libuv, fds }: BlankOptions): void {
  const control = fdFor(fds, 'control');
  const invoke = fdFor(fds, 'invoke');
  const answers = fdFor(fds, 'answers');
  const bell = fdFor(fds, 'bell');
  const stdout = fdFor(fds, 'stdout');
  const [initLink, functionLink] = socketPair('stream');
  const seccomp = setup.seccomp.seals;
  // The zygote ignores it, and with that PID 1 would never learn how its children ended.
  restoreSignal(SIGCHLD);
  const isFunction = fork() === 0;
  const own = isFunction ? [invoke, answers, bell, functionLink] : [control, initLink];
  duplicateTo(stdout, 1);
  duplicateTo(stdout, 2);
  // The sockets of other pairs too, or those would outlive the zygote.
  closeInherited(libuv, own);
  // PID 1's loop never runs, but V8's garbage collector wakes it: libuv aborts when it cannot.
  adoptEventLoop();
  becomeSessionLeader();
  // A key in the zygote's session keyring would be every function's.
  joinNewSessionKeyring();
  setUmask(0o022);
  setOomScore(isFunction ? oomScore.function : oomScore.init);
  const label = openLabel(setup.label);
  if (isFunction) {
    const blank = { socket: invoke, link: functionLink, seccomp, label };
    failLoudly(() => becomeFunction(blank, { answers, bell }, setup));
  } else {
    // Node's own handler would return into the fault for ever: the kernel spares PID 1 the default.
    restoreSignal(SIGSEGV);
    if (waitReadable([control], 0).length === 0) rehearseInBlank.init();
    const namespaceLimits = openNamespaceLimits();
    const blank = { socket: control, link: initLink, seccomp, label, namespaceLimits };
    failLoudly(() => {
      // It follows into what the function's process has made: were both woken by the order, the one
      // that can only wait would take the other's processor.
      hearOther(initLink);
      runInit(blank, awaitOrder(control));
    });
  }
}

function becomeFunction(
  blank: BlankProcess,
  { answers, bell }: { answers: number; bell: number },
  setup: ZygoteSetup,
): void {
  renewRandomness();
  Object.defineProperty(process, 'pid', { value: currentPid(), enumerable: true });
  setResourceLimit(resource.openFiles, setup.openFilesMax);
  unshare(namespaceFlag.mount);
  makeRootPrivate();
  // Where they belong is not there yet: /proc is moved, the others are not attached so far.
  const mounts: Mounts = [['proc', mountProc()], ...makeMounts(setup.tmpfsBytes)];
  const server = new FunctionServer({ invoke: blank.socket, answers });
  const { landlockAbi } = setup;
  if (waitReadable([blank.socket], 0).length === 0) rehearseInBlank.function(landlockAbi);
  waitForBell(bell, blank.socket);
  closeSync(bell);
  buildContainer({ ...blank, mounts, server, landlockAbi }, awaitOrder(blank.socket));
}

function awaitOrder(socket: number): ContainerStart {
  // Without an order nobody was promised this pair.
  return receiveOrder(socket) ?? exitNow(0);
}

/** Exit status of a container that could not be built; the reason is on its standard error. */
const buildFailedStatus = 125;

function failLoudly(build: () => void): void {
  try {
    build();
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    exitNow(buildFailedStatus);
  }
}
