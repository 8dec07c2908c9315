/**
 * A container's start, rehearsed in the zygote, so that a child finds the code of its own start
 * compiled and its caches filled. Done are all the steps that can be undone; the thread enters
 * fresh namespaces, builds a root, and comes back.
 */
import { closeSync, mkdirSync } from 'node:fs';
import { Socket } from 'node:net';
import { nowNs } from '../host/base/clock.ts';
import type { ContainerOrder, ZygoteSetup } from '../host/protocol/zygote.ts';
import { encodeFrame, encodeJsonFrame, frameType } from '../host/protocol/frame.ts';
import { renewRandomness } from '../host/sys/fork.ts';
import { createMount, makeRootPrivate } from '../host/sys/mount.ts';
import {
  namespaceFlag,
  OwnNamespaces,
  setDomainName,
  setHostname,
  unshare,
  unshareWorkingDirectory,
} from '../host/sys/namespace.ts';
import { closeAllBut, currentPid, setUmask } from '../host/sys/process.ts';
import { sendMessage, socketPair } from '../host/sys/socket.ts';
import { closeRole, receiveOrder } from './container-start.ts';
import { describeFds } from './inherited-fds.ts';
import { rehearseRestrictions } from './landlock.ts';
import { enterRoot, makeMounts, waitForFunction } from './park.ts';
import { verifyDropped } from './privileges.ts';
import { mountProc } from './proc-mount.ts';
import { rehearseFunction } from './serve.ts';

const rounds = 8;

export function rehearseStart(setup: ZygoteSetup): void {
  // A thread that shares its root directory with others may not change its mount namespace back.
  unshareWorkingDirectory();
  const own = new OwnNamespaces(['mount', 'uts', 'ipc', 'cgroup']);
  for (let round = 0; round < rounds; round++) {
    rehearseNamespaces(setup);
    own.rejoin();
    new Socket({ fd: rehearseMessages(), readable: true, writable: true }).destroy();
    rehearseFunction();
  }
  own.close();
}

/**
 * In the processes of a blank pair, when they have time: what they can do of their start without a
 * container. The pages that a start touches are their own then, before there is one to wait.
 */
export const rehearseInBlank = {
  init(): void {
    rehearseOrder();
    rehearseVerification();
  },
  function(landlockAbi: number): void {
    rehearseOrder();
    rehearseRestrictions(landlockAbi);
    closeSync(rehearseMessages());
    process.env['HATCH_FUNCTION_NAME'] = '';
    process.chdir('/');
    rehearseVerification();
    rehearseFunction();
  },
};

function rehearseOrder(): void {
  const [near, far] = socketPair('stream');
  const container = { id: 'rehearsal', uid: 0, gid: 0 };
  const order: ContainerOrder = { container, fds: ['joinCgroup'], startNs: nowNs() };
  sendMessage(near, Buffer.from(JSON.stringify(order)), [near]);
  const start = receiveOrder(far);
  if (start !== undefined) closeRole(start.fds, 'joinCgroup');
  closeSync(near);
  closeSync(far);
}

function rehearseNamespaces(setup: ZygoteSetup): void {
  const { mount, uts, ipc, cgroup } = namespaceFlag;
  unshare(mount | uts | ipc | cgroup);
  makeRootPrivate();
  setHostname('rehearsal');
  setDomainName('');
  setUmask(0o022);
  closeAllBut([...describeFds().keys()]);
  renewRandomness();
  const rootFd = createMount({ type: 'tmpfs', options: [], attributes: 0 });
  for (const directory of ['proc', 'dev', 'tmp']) mkdirSync(`/proc/self/fd/${rootFd}/${directory}`);
  enterRoot(rootFd, [['proc', mountProc()], ...makeMounts(setup.tmpfsBytes)]);
  rehearseRestrictions(setup.landlockAbi);
  currentPid();
  rehearseVerification();
}

function rehearseVerification(): void {
  try {
    verifyDropped();
  } catch {
    // All rights are still there: only the reading is rehearsed.
  }
}

/** Returns the end of a socket that has received them. */
function rehearseMessages(): number {
  const [near, far] = socketPair('stream');
  const body = { functionName: 'rehearsal', env: { PATH: '/usr/bin' } };
  sendMessage(near, encodeJsonFrame(frameType.specialise, 0, body));
  sendMessage(near, encodeFrame(frameType.root, 0), [near]);
  const received = waitForFunction(far);
  if (received !== undefined) closeSync(received.rootFd);
  closeSync(near);
  return far;
}
