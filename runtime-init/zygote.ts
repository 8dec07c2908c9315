/**
 * The zygote: a warm Node.js that waits, outside its event loop, for requests to fork containers
 * and to make network namespaces. It never runs a function's code and never returns from its loop,
 * except in a child, which unwinds into a fresh event loop of its own.
 */
import { closeSync } from 'node:fs';
import { messageOf } from '../host/base/errors.ts';
import type { ZygoteHello, ZygoteSetup } from '../host/protocol/zygote.ts';
import { exitNow, makeForkable } from '../host/sys/fork.ts';
import { openOwnNamespace } from '../host/sys/namespace.ts';
import {
  becomeSessionLeader,
  blockAllSignals,
  ignoreSignal,
  lowerResourceLimit,
  resource,
  setResourceLimit,
} from '../host/sys/process.ts';
import { loadListenedSeccompFilter } from '../host/sys/seccomp-filter.ts';
import { receiveMessage } from '../host/sys/socket.ts';
import { forkBlank } from './blank.ts';
import { groupByRole } from './container-start.ts';
import { testForking } from './fork-test.ts';
import { findLoopFds, findThreadFds, type LibuvFds } from './inherited-fds.ts';
import { makeNetworkNamespace } from './network-namespace.ts';
import { stopOptimising } from './optimising.ts';
import { serveByExec } from './exec-zygote.ts';
import { collectGarbage, warmUp } from './warm.ts';
import { answer, answerWithFd, nextRequest, zygoteSocketFd } from './zygote-socket.ts';

const SIGCHLD = 17;
/** What Linux gives anybody by default, but for signals, of which it gives a root too many. */
const resourceLimits: readonly [which: number, most: number][] = [
  [resource.lockedMemory, 8 * 2 ** 20],
  [resource.pendingSignals, 1024],
  [resource.messageQueueBytes, 819_200],
];

export async function runZygote(): Promise<void> {
  const message = receiveMessage(zygoteSocketFd);
  if (message === undefined) return;
  const setup = JSON.parse(message.bytes.toString()) as ZygoteSetup;
  becomeSessionLeader();
  limitResources();
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
  const listener = loadListenedSeccompFilter(Buffer.from(setup.seccomp.base, 'base64'));
  // From here on ended containers vanish without a wait: their exit reaches the host another way.
  ignoreSignal(SIGCHLD);
  answerWithFd(listener, { id: 0, mode: 'fork' } satisfies ZygoteHello);
  const loop = findLoopFds();
  stopOptimising();
  collectGarbage();
  serveUntilForked(setup, { own: [...loop, ...signalLock], threads: findThreadFds(loop) });
}

/** For its containers, which inherit them: what no control group counts. */
function limitResources(): void {
  setResourceLimit(resource.core, 0);
  for (const [which, most] of resourceLimits) lowerResourceLimit(which, most);
}

/** Returns in a child only; the zygote itself leaves when the host closes the socket. */
function serveUntilForked(setup: ZygoteSetup, libuv: LibuvFds): void {
  const network = openOwnNamespace('network');
  const pidNamespace = openOwnNamespace('pid');
  for (;;) {
    const received = nextRequest();
    if (received === undefined) exitNow(0);
    const { request, fds } = received;
    const { id } = request;
    try {
      if (request.type === 'fork') {
        const byRole = groupByRole(request.fds, fds);
        const blank = forkBlank({ pidNamespace, setup, libuv, fds: byRole });
        if (blank === undefined) return;
        answerWithFd(blank.pidFd, { id, pid: blank.pid });
      } else if (request.type === 'networkNamespace') {
        answerWithFd(makeNetworkNamespace(network), { id });
      } else {
        throw new Error(`A zygote that forks does not ${request.type}`);
      }
    } catch (error) {
      answer({ id, error: messageOf(error) });
    }
    for (const fd of fds) closeSync(fd);
  }
}
