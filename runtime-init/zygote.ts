/**
 * The zygote: a warm Node.js that waits, outside its event loop, for requests to fork containers
 * and to make namespaces. It never runs a function's code and never returns from its loop, except
 * in a child, which unwinds into a fresh event loop of its own.
 */
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { nowNs } from '../host/base/clock.ts';
import { messageOf } from '../host/base/errors.ts';
import type { Step } from '../host/base/channels.ts';
import type { ZygoteAnswer, ZygoteRequest, ZygoteSetup } from '../host/protocol/zygote.ts';
import { exitNow, fork, makeForkable, openPidFd } from '../host/sys/fork.ts';
import {
  bringLoopbackUp,
  joinNamespace,
  namespaceFlag,
  openOwnNamespace,
  unshare,
} from '../host/sys/namespace.ts';
import { blockAllSignals, ignoreSignal, setResourceLimit } from '../host/sys/process.ts';
import { becomeSessionLeader, resource } from '../host/sys/process.ts';
import { pipe, receiveMessage, sendMessage } from '../host/sys/socket.ts';
import { startContainer } from './container.ts';
import { groupByRole } from './container-start.ts';
import { testForking } from './fork-test.ts';
import { findLoopFds, findThreadFds, type LibuvFds } from './inherited-fds.ts';
import { warmUp } from './warm.ts';

const socketFd = 3;
const SIGCHLD = 17;

interface Request {
  request: ZygoteRequest;
  fds: number[];
}

export async function runZygote(): Promise<void> {
  const message = receiveMessage(socketFd);
  if (message === undefined) return;
  const setup = JSON.parse(message.bytes.toString()) as ZygoteSetup;
  becomeSessionLeader();
  setResourceLimit(resource.core, 0);
  await warmUp(setup);
  makeForkable();
  blockAllSignals();
  const signalLock = testForking();
  if (signalLock === undefined) return;
  // From here on ended containers vanish without a wait: their exit reaches the host another way.
  ignoreSignal(SIGCHLD);
  answer({ id: 0, pid: process.pid, steps: [] });
  const loop = findLoopFds();
  serveUntilForked(setup, { own: [...loop, ...signalLock], threads: findThreadFds(loop) });
}

/** Returns in a child only; the zygote itself leaves when the host closes the socket. */
function serveUntilForked(setup: ZygoteSetup, libuv: LibuvFds): void {
  const ownPidNamespace = openOwnNamespace('pid');
  const ownNetworkNamespace = openOwnNamespace('net');
  for (;;) {
    const received = nextRequest();
    if (received === undefined) exitNow(0);
    const { request, fds } = received;
    try {
      if (request.type === 'fork') {
        const start = nowNs();
        unshare(namespaceFlag.pid);
        const pid = fork();
        if (pid === 0) {
          const byRole = groupByRole(request.fds, fds);
          startContainer({
            setup,
            identity: request.container,
            fds: byRole,
            libuv,
            startNs: start,
          });
          return;
        }
        joinNamespace(ownPidNamespace, namespaceFlag.pid);
        answerWithFd(openPidFd(pid), {
          id: request.id,
          pid,
          steps: [{ name: 'fork', startNs: start, endNs: nowNs() }],
        });
      } else if (request.type === 'userNamespace') {
        answerWithFd(makeUserNamespace(request), { id: request.id, steps: [] });
      } else {
        answerWithFd(makeNetworkNamespace(ownNetworkNamespace), { id: request.id, steps: [] });
      }
    } catch (error) {
      answer({ id: request.id, error: messageOf(error) });
    }
    for (const fd of fds) closeSync(fd);
  }
}

function nextRequest(): Request | undefined {
  const message = receiveMessage(socketFd);
  if (message === undefined) return undefined;
  return { request: JSON.parse(message.bytes.toString()) as ZygoteRequest, fds: message.fds };
}

function answer(body: ZygoteAnswer, fds: readonly number[] = []): void {
  sendMessage(socketFd, Buffer.from(JSON.stringify(body)), fds);
}

function answerWithFd(fd: number, body: { id: number; pid?: number; steps: Step[] }): void {
  try {
    answer(body, [fd]);
  } finally {
    closeSync(fd);
  }
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

function makeNetworkNamespace(ownNetworkNamespace: number): number {
  unshare(namespaceFlag.network);
  try {
    bringLoopbackUp();
    return openOwnNamespace('net');
  } finally {
    joinNamespace(ownNetworkNamespace, namespaceFlag.network);
  }
}
