/**
 * The zygote: a warm Node.js that waits, outside its event loop, for requests to fork containers
 * and to make network namespaces. It never runs a function's code and never returns from its loop,
 * except in a child, which unwinds into a fresh event loop of its own.
 */
import { closeSync } from 'node:fs';
import { nowNs } from '../host/base/clock.ts';
import { messageOf } from '../host/base/errors.ts';
import type { ZygoteHello, ZygoteSetup } from '../host/protocol/zygote.ts';
import { exitNow, makeForkable } from '../host/sys/fork.ts';
import { openOwnNamespace } from '../host/sys/namespace.ts';
import { blockAllSignals, ignoreSignal, setResourceLimit } from '../host/sys/process.ts';
import { becomeSessionLeader, resource, waitReadable } from '../host/sys/process.ts';
import { receiveMessage } from '../host/sys/socket.ts';
import { forkBlank, handOver, type Blank } from './blank.ts';
import { testForking } from './fork-test.ts';
import { findLoopFds, findThreadFds, type LibuvFds } from './inherited-fds.ts';
import { makeNetworkNamespace } from './network-namespace.ts';
import { serveByExec } from './exec-zygote.ts';
import { collectGarbage, warmUp } from './warm.ts';
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
  collectGarbage();
  serveUntilForked(setup, { own: [...loop, ...signalLock], threads: findThreadFds(loop) });
}

/** Pairs of processes kept for the next containers. */
const blanksMax = 2;
/** They are forked when nothing was asked for so long: a start under way needs the processors. */
const quietMs = 5;

/** Returns in a child only; the zygote itself leaves when the host closes the socket. */
function serveUntilForked(setup: ZygoteSetup, libuv: LibuvFds): void {
  const network = openOwnNamespace('net');
  const options = { pidNamespace: openOwnNamespace('pid'), setup, libuv };
  const blanks: Blank[] = [];
  for (;;) {
    if (blanks.length < blanksMax && waitReadable([zygoteSocketFd], quietMs).length === 0) {
      const blank = forkBlank(options);
      if (blank === undefined) return;
      blanks.push(blank);
      continue;
    }
    const received = nextRequest();
    if (received === undefined) exitNow(0);
    const { request, fds } = received;
    const startNs = nowNs();
    try {
      if (request.type === 'fork') {
        const blank = blanks.shift() ?? forkBlank(options);
        if (blank === undefined) return;
        try {
          handOver(blank, { request, startNs }, fds);
        } catch (error) {
          closeSync(blank.pidFd);
          throw error;
        }
        answerWithFd(blank.pidFd, { id: request.id, pid: blank.pid });
      } else {
        answerWithFd(makeNetworkNamespace(network), { id: request.id });
      }
    } catch (error) {
      answer({ id: request.id, error: messageOf(error) });
    }
    for (const fd of fds) closeSync(fd);
  }
}
