/**
 * The two processes of a container, forked ahead of it: PID 1 and the function's process in a pid
 * namespace of their own, and nothing else yet. They hold no other namespace, no group, no root and
 * no user; what they are to become is made when it is asked for. Namespaces are pooled, and a pid
 * namespace lives by its processes.
 */
import { closeSync } from 'node:fs';
import { messageOf } from '../host/base/errors.ts';
import type { FdRole, ZygoteRequest, ZygoteSetup } from '../host/protocol/zygote.ts';
import { adoptEventLoop, exitNow, fork, openPidFd, renewRandomness } from '../host/sys/fork.ts';
import { joinNamespace, namespaceFlag, unshare } from '../host/sys/namespace.ts';
import {
  currentPid,
  resource,
  restoreSignal,
  setResourceLimit,
  waitReadable,
} from '../host/sys/process.ts';
import { receiveMessage, sendMessage, socketPair } from '../host/sys/socket.ts';
import { buildContainer } from './container.ts';
import { groupByRole, type ContainerStart } from './container-start.ts';
import { closeInherited, type LibuvFds } from './inherited-fds.ts';
import { runInit } from './init.ts';
import { rehearseFunction } from './serve.ts';

const SIGCHLD = 17;
const SIGSEGV = 11;

/** The zygote's hold on a pair: an end of its socket to each process. */
export interface Blank {
  /** Of PID 1. */
  pid: number;
  pidFd: number;
  initSocket: number;
  functionSocket: number;
}

export interface Order {
  request: Extract<ZygoteRequest, { type: 'fork' }>;
  /** When the zygote took the request. */
  startNs: number;
}

export interface BlankOptions {
  /** The zygote's own, to come back to. */
  pidNamespace: number;
  setup: ZygoteSetup;
  libuv: LibuvFds;
}

/** Undefined in the function's process, once it has loaded its function. */
export function forkBlank({ pidNamespace, setup, libuv }: BlankOptions): Blank | undefined {
  const [initSocket, initFar] = socketPair('seqpacket');
  const [functionSocket, functionFar] = socketPair('seqpacket');
  unshare(namespaceFlag.pid);
  const pid = fork();
  if (pid === 0) {
    becomePair({ initFar, functionFar, setup, libuv });
    return undefined;
  }
  joinNamespace(pidNamespace, namespaceFlag.pid);
  closeSync(initFar);
  closeSync(functionFar);
  return { pid, pidFd: openPidFd(pid), initSocket, functionSocket };
}

/** What each of the two has to do with; the others it never sees. */
const initRoles: readonly FdRole[] = ['control', 'stdout', 'userNamespace', 'joinCgroup'];

/** Sends a pair its order. The descriptors stay the caller's; the pair's sockets are closed. */
export function handOver(blank: Blank, order: Order, fds: readonly number[]): void {
  const roles = order.request.fds;
  const send = (socket: number, wanted: (role: FdRole) => boolean): void => {
    const chosen = fds.filter((_fd, index) => wanted(roles[index] ?? 'control'));
    const request = { ...order.request, fds: roles.filter(wanted) };
    sendMessage(socket, Buffer.from(JSON.stringify({ ...order, request })), chosen);
  };
  try {
    // The function's process has the longer way to go.
    send(blank.functionSocket, (role) => role !== 'control');
    send(blank.initSocket, (role) => initRoles.includes(role));
  } finally {
    closeSync(blank.initSocket);
    closeSync(blank.functionSocket);
  }
}

interface Pair {
  initFar: number;
  functionFar: number;
  setup: ZygoteSetup;
  libuv: LibuvFds;
}

/**
 * In PID 1. Returns in its child only. Nothing is closed before the second fork: libuv makes a new
 * signal lock at each, with the lowest free numbers, and those have to stay the known ones.
 */
function becomePair({ initFar, functionFar, setup, libuv }: Pair): void {
  const [initLink, functionLink] = socketPair('stream');
  // The zygote ignores it, and with that PID 1 would never learn how its children ended.
  restoreSignal(SIGCHLD);
  if (fork() === 0) {
    // The sockets of other pairs too, or those would outlive the zygote.
    closeInherited(libuv, [functionFar, functionLink]);
    adoptEventLoop();
    renewRandomness();
    Object.defineProperty(process, 'pid', { value: currentPid(), enumerable: true });
    setResourceLimit(resource.openFiles, setup.openFilesMax);
    setResourceLimit(resource.core, 0);
    // With time to spare, the pages that a start touches are made our own before there is one.
    if (waitReadable([functionFar], 0).length === 0) rehearseFunction();
    failLoudly(() => buildContainer(receiveOrder(functionFar, setup, functionLink)));
  } else {
    closeInherited(libuv, [initFar, initLink]);
    // The loop never runs, but V8's garbage collector wakes it, and libuv aborts when it cannot.
    adoptEventLoop();
    // Node's own handler would return into the fault for ever: the kernel spares PID 1 the default.
    restoreSignal(SIGSEGV);
    failLoudly(() => runInit(receiveOrder(initFar, setup, initLink)));
  }
}

function receiveOrder(socket: number, setup: ZygoteSetup, link: number): ContainerStart {
  const message = receiveMessage(socket);
  // The zygote is gone, and nobody was promised this pair.
  if (message === undefined) exitNow(0);
  closeSync(socket);
  const { request, startNs } = JSON.parse(message.bytes.toString()) as Order;
  const fds = groupByRole(request.fds, message.fds);
  return { setup, identity: request.container, fds, link, startNs };
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
