/**
 * A container's start, rehearsed in the zygote, so that a child finds the code of its own start
 * compiled and its caches filled. Done are all the steps that can be undone; the thread enters
 * fresh namespaces, builds a root, and comes back.
 */
import { closeSync, mkdirSync } from 'node:fs';
import { Socket } from 'node:net';
import type { ZygoteSetup } from '../host/protocol/zygote.ts';
import { encodeFrame, encodeJsonFrame, frameType } from '../host/protocol/frame.ts';
import { renewRandomness } from '../host/sys/fork.ts';
import { createMount, makeRootPrivate } from '../host/sys/mount.ts';
import {
  joinNamespace,
  namespaceFlag,
  openOwnNamespace,
  setDomainName,
  setHostname,
  unshare,
  unshareWorkingDirectory,
} from '../host/sys/namespace.ts';
import { closeAllBut, currentPid, setUmask } from '../host/sys/process.ts';
import { sendMessage, socketPair } from '../host/sys/socket.ts';
import { describeFds } from './inherited-fds.ts';
import { enterRoot, makeMounts, makeProc, waitForFunction } from './park.ts';
import { verifyDropped } from './privileges.ts';
import { rehearseFunction } from './serve.ts';

const rounds = 8;
const kinds = ['mnt', 'uts', 'ipc', 'cgroup'] as const;
const flagOf = {
  mnt: namespaceFlag.mount,
  uts: namespaceFlag.uts,
  ipc: namespaceFlag.ipc,
  cgroup: namespaceFlag.cgroup,
} as const;

export function rehearseStart(setup: ZygoteSetup): void {
  // A thread that shares its root directory with others may not change its mount namespace back.
  unshareWorkingDirectory();
  const own = kinds.map((kind) => [kind, openOwnNamespace(kind)] as const);
  for (let round = 0; round < rounds; round++) {
    rehearseNamespaces(setup);
    for (const [kind, fd] of own) joinNamespace(fd, flagOf[kind]);
    rehearseMessages();
    rehearseFunction();
  }
  for (const [, fd] of own) closeSync(fd);
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
  enterRoot(rootFd, [makeProc(), ...makeMounts(setup.tmpfsBytes)]);
  currentPid();
  try {
    verifyDropped();
  } catch {
    // The zygote keeps its rights: only the reading is rehearsed.
  }
}

function rehearseMessages(): void {
  const [near, far] = socketPair('stream');
  const body = { functionName: 'rehearsal', env: { PATH: '/usr/bin' } };
  sendMessage(near, encodeJsonFrame(frameType.specialise, 0, body));
  sendMessage(near, encodeFrame(frameType.root, 0), [near]);
  const received = waitForFunction(far);
  if (received !== undefined) closeSync(received.rootFd);
  closeSync(near);
  new Socket({ fd: far, readable: true, writable: true }).destroy();
}
