/**
 * The zygote: a warm Node.js that waits, outside its event loop, for requests to fork containers
 * and to make namespaces. It never runs a function's code and never returns from its loop, except
 * in a child, which unwinds into a fresh event loop of its own.
 */
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { nowNs } from '../host/base/clock.ts';
import { messageOf } from '../host/base/errors.ts';
import type { ZygoteHello, ZygoteRequest, ZygoteSetup } from '../host/protocol/zygote.ts';
import { exitNow, fork, makeForkable, openPidFd } from '../host/sys/fork.ts';
import { joinNamespace, namespaceFlag, openOwnNamespace, unshare } from '../host/sys/namespace.ts';
import { blockAllSignals, ignoreSignal, setResourceLimit } from '../host/sys/process.ts';
import { becomeSessionLeader, resource, waitReadable } from '../host/sys/process.ts';
import { pipe, receiveMessage, sendMessage, socketPair } from '../host/sys/socket.ts';
import { startContainer } from './container.ts';
import { groupByRole } from './container-start.ts';
import { testForking } from './fork-test.ts';
import { findLoopFds, findThreadFds, closeInherited, type LibuvFds } from './inherited-fds.ts';
import { makeNetworkNamespace } from './network-namespace.ts';
import { serveByExec } from './exec-zygote.ts';
import { warmUp } from './warm.ts';
import { answer, answerWithFd, nextRequest, zygoteSocketFd } from './zygote-socket.ts';

const SIGCHLD = 17;

export async function runZygote(): Promise<void> {
  const message = receiveMessage(zygoteSocketFd);
  if (message === undefined) return;
  const setup = JSON.parse(message.bytes.toString()) as ZygoteSetup;
  becomeSessionLeader();
  setResourceLimit(resource.core, 0);
  if (setup.fork === 'never') serveByExec(setup, 'it is configured not to');
  await warmUp(setup);
  makeForkable();
  blockAllSignals();
  let signalLock: number[] | undefined;
  try {
    signalLock = testForking();
  } catch (error) {
    serveByExec(setup, messageOf(error));
  }
  // The test child: its event loop does the rest.
  if (signalLock === undefined) return;
  // From here on ended containers vanish without a wait: their exit reaches the host another way.
  ignoreSignal(SIGCHLD);
  answer({ id: 0, mode: 'fork' } satisfies ZygoteHello);
  const loop = findLoopFds();
  serveUntilForked(setup, { own: [...loop, ...signalLock], threads: findThreadFds(loop) });
}

/** A PID 1 that waits, in a pid namespace of its own, for what it is to become. */
interface SpareInit {
  pid: number;
  pidFd: number;
  socketFd: number;
}

/**
 * Namespaces are pooled, and a pid namespace lives by its PID 1: so many are kept, forked when
 * there is nothing else to do. The function's own process is forked when it is asked for.
 */
const spareInitsMax = 2;

/** Returns in a child only; the zygote itself leaves when the host closes the socket. */
function serveUntilForked(setup: ZygoteSetup, libuv: LibuvFds): void {
  const own = { pid: openOwnNamespace('pid'), network: openOwnNamespace('net') };
  const spares: SpareInit[] = [];
  for (;;) {
    if (spares.length < spareInitsMax && waitReadable([zygoteSocketFd], 0).length === 0) {
      const spare = forkInit(own.pid, setup, libuv);
      if (spare === undefined) return;
      spares.push(spare);
      continue;
    }
    const received = nextRequest();
    if (received === undefined) exitNow(0);
    const { request, fds } = received;
    const startNs = nowNs();
    try {
      if (request.type === 'fork') {
        const init = spares.shift() ?? forkInit(own.pid, setup, libuv);
        if (init === undefined) return;
        handOver(init, { request, startNs }, fds);
      } else if (request.type === 'userNamespace') {
        answerWithFd(makeUserNamespace(request), { id: request.id });
      } else {
        answerWithFd(makeNetworkNamespace(own.network), { id: request.id });
      }
    } catch (error) {
      answer({ id: request.id, error: messageOf(error) });
    }
    for (const fd of fds) closeSync(fd);
  }
}

/** Undefined in the child, once it has become a container's function process. */
function forkInit(
  ownPidNamespace: number,
  setup: ZygoteSetup,
  libuv: LibuvFds,
): SpareInit | undefined {
  const [near, far] = socketPair('seqpacket');
  unshare(namespaceFlag.pid);
  const pid = fork();
  if (pid === 0) {
    // The other spares' sockets too, or those would outlive the zygote.
    closeInherited(libuv, [far]);
    becomeContainer(far, setup, libuv);
    return undefined;
  }
  joinNamespace(ownPidNamespace, namespaceFlag.pid);
  closeSync(far);
  return { pid, pidFd: openPidFd(pid), socketFd: near };
}

interface HandOver {
  request: Extract<ZygoteRequest, { type: 'fork' }>;
  startNs: number;
}

function handOver(init: SpareInit, work: HandOver, fds: readonly number[]): void {
  try {
    sendMessage(init.socketFd, Buffer.from(JSON.stringify(work)), fds);
  } catch (error) {
    closeSync(init.pidFd);
    throw error;
  } finally {
    closeSync(init.socketFd);
  }
  answerWithFd(init.pidFd, { id: work.request.id, pid: init.pid });
}

function becomeContainer(socket: number, setup: ZygoteSetup, libuv: LibuvFds): void {
  const message = receiveMessage(socket);
  // The zygote is gone, and nobody was promised this one.
  if (message === undefined) exitNow(0);
  closeSync(socket);
  const { request, startNs } = JSON.parse(message.bytes.toString()) as HandOver;
  const fds = groupByRole(request.fds, message.fds);
  startContainer({ setup, identity: request.container, fds, libuv, startNs });
}

/** A user namespace lives by its descriptor: the process that made it need not stay. */
function makeUserNamespace(request: { firstHostId: number; count: number }): number {
  const [goRead, goWrite] = pipe();
  const [madeRead, madeWrite] = pipe();
  const pid = fork();
  if (pid === 0) {
    unshare(namespaceFlag.user);
    closeSync(madeWrite);
    closeSync(goWrite);
    readSync(goRead, Buffer.alloc(1));
    exitNow(0);
  }
  try {
    closeSync(madeWrite);
    // End of file: the child has entered its namespace, or is gone.
    readSync(madeRead, Buffer.alloc(1));
    const map = `0 ${request.firstHostId} ${request.count}`;
    writeFileSync(`/proc/${pid}/uid_map`, map);
    writeFileSync(`/proc/${pid}/gid_map`, map);
    return openSync(`/proc/${pid}/ns/user`, 'r');
  } finally {
    for (const fd of [goRead, goWrite, madeRead]) closeSync(fd);
  }
}
