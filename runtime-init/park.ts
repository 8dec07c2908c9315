/**
 * The function process before it has a function: everything that needs no function is done, then it
 * blocks until the host sends one, with a root to live in.
 */
import { closeSync, constants, fchownSync, fstatSync, openSync, writeSync } from 'node:fs';
import { messageOf } from '../host/base/errors.ts';
import type { Step } from '../host/base/channels.ts';
import { StepTimer } from '../host/base/step-timer.ts';
import { encodeJsonFrame, FrameReader, frameType } from '../host/protocol/frame.ts';
import { decodeJson, secretsDirectory, type Specialisation } from '../host/protocol/invoke.ts';
import { exitNow } from '../host/sys/fork.ts';
import { makeDeviceMount } from '../host/sys/devices.ts';
import { O_PATH, openAt, resolve } from '../host/sys/file.ts';
import {
  attachMount,
  attachMountOn,
  createMount,
  detachMount,
  mountAttribute,
  pivotRootHere,
  tmpfsSize,
} from '../host/sys/mount.ts';
import { joinNamespace, namespaceFlag } from '../host/sys/namespace.ts';
import {
  changeDirectoryTo,
  duplicateTo,
  unblockAllSignals,
  waitReadable,
} from '../host/sys/process.ts';
import { receiveMessage } from '../host/sys/socket.ts';
import { fdFor, hearOther, type BlankProcess, type ContainerStart } from './container-start.ts';
import { restrict } from './landlock.ts';
import { sendToHost } from './output.ts';
import { dropPrivileges } from './privileges.ts';
import type { FunctionServer } from './serve.ts';

/** Where the zygote's root has an empty directory to build a container's root on. */
const buildDirectory = '/mnt';
const { noSuid, noDev } = mountAttribute;

/** Mounts that every container gets, by the directory they belong on. */
export type Mounts = [directory: string, mountFd: number][];

/** The function's process before it has a container. */
export interface BlankFunction extends BlankProcess {
  mounts: Mounts;
  server: FunctionServer;
  /** 0 without Landlock. */
  landlockAbi: number;
}

/** Returns when the function is loaded, into the event loop that then serves its calls. */
export function park(blank: BlankFunction, start: ContainerStart, parkSteps: Step[]): void {
  let steps = parkSteps;
  // With a function there already, its start reports these steps; else somebody waits for them.
  if (waitReadable([blank.socket], 0).length === 0) {
    sendToHost(encodeJsonFrame(frameType.parked, 0, { steps }));
    steps = [];
  }
  const assigned = waitForFunction(blank.socket);
  if (assigned === undefined) exitNow(0);
  try {
    specialise({ blank, start, assigned, steps });
  } catch (error) {
    const failed = { code: 'host.start_failed', message: messageOf(error) };
    sendToHost(encodeJsonFrame(frameType.failed, 0, failed));
    exitNow(1);
  }
}

/** The mounts that any process can make for a container. */
export function makeMounts(tmpfsBytes: number): Mounts {
  const tmpfs = (mode: string): number =>
    createMount({
      type: 'tmpfs',
      options: [...tmpfsSize(tmpfsBytes), { key: 'mode', value: mode }],
      attributes: noSuid | noDev,
    });
  return [
    ['dev', makeDeviceMount()],
    ['dev/shm', tmpfs('1777')],
    ['tmp', tmpfs('1777')],
  ];
}

export interface Assigned {
  specialisation: Specialisation;
  rootFd: number;
  /** What only this function gets. */
  mounts: Mounts;
  /** To be entered; undefined for a container that stays where it is. */
  networkFd: number | undefined;
}

/**
 * The function comes first, so that this process is awake when its root is made. Undefined when the
 * host closed the socket instead.
 */
export function waitForFunction(invoke: number): Assigned | undefined {
  const reader = new FrameReader();
  const fds: number[] = [];
  let specialisation: Specialisation | undefined;
  let fdsExpected = Infinity;
  while (specialisation === undefined || fds.length < fdsExpected) {
    // The event loop's socket has made the descriptor non-blocking.
    waitReadable([invoke], -1);
    const message = receiveMessage(invoke);
    if (message === undefined) return undefined;
    fds.push(...message.fds);
    reader.push(message.bytes, (frame) => {
      if (frame.type !== frameType.specialise) return;
      specialisation = decodeJson<Specialisation>(frame);
      fdsExpected = specialisation.network?.isSent === true ? 2 : 1;
    });
  }
  // In the order of the messages: the network, the root, what only this function gets.
  const networkFd = fdsExpected === 2 ? fds.shift() : undefined;
  const [rootFd = -1, ...own] = fds;
  const volumes = specialisation.volumes ?? [];
  const volumeFds = own.splice(own.length - volumes.length);
  const mounts: Mounts = [
    ...own.map((fd): Mounts[number] => [secretsDirectory.slice(1), fd]),
    ...volumeFds.map((fd, index): Mounts[number] => [volumes[index]?.slice(1) ?? '', fd]),
  ];
  return { specialisation, rootFd, mounts, networkFd };
}

interface Assignment {
  blank: BlankFunction;
  start: ContainerStart;
  assigned: Assigned;
  /** What it took so far, as far as nobody was told. */
  steps: Step[];
}

function specialise({ blank, start, assigned, steps }: Assignment): void {
  const { specialisation, rootFd, mounts, networkFd } = assigned;
  const timer = new StepTimer();
  if (networkFd !== undefined) {
    joinNamespace(networkFd, namespaceFlag.network);
    closeSync(networkFd);
  }
  if (specialisation.network !== undefined) nameHosts(rootFd, specialisation.network);
  enterRoot(rootFd, [...blank.mounts, ...mounts]);
  timer.finish('rootfs');
  Object.assign(process.env, specialisation.env);
  process.chdir('/function');
  restrict({
    abi: blank.landlockAbi,
    connectTcpPorts: specialisation.network?.connectTcpPorts,
    volumes: specialisation.volumes,
  });
  dropPrivileges({
    userNamespace: fdFor(start.fds, 'userNamespace'),
    identity: start.identity,
    label: blank.label,
    seccomp: blank.seccomp[specialisation.seccomp],
  });
  unblockAllSignals();
  timer.finish('drop');
  // Foreign code runs only beside a PID 1 that has no rights left to steal.
  hearOther(blank.link);
  closeSync(blank.link);
  blank.server.load(specialisation, [...steps, ...timer.steps]);
}

/** Owned by the container's root, as all of `/etc` is. */
export function nameHosts(rootFd: number, network: NonNullable<Specialisation['network']>): void {
  const { uid, gid } = fstatSync(rootFd);
  const files = { 'etc/hosts': network.hosts, 'etc/resolv.conf': network.resolvers };
  for (const [path, text] of Object.entries(files)) {
    const fd = openAt(rootFd, path, {
      flags: constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC,
      mode: 0o644,
      resolve: resolve.beneath | resolve.noSymlinks | resolve.noMagicLinks,
    });
    try {
      fchownSync(fd, uid, gid);
      writeSync(fd, text);
    } finally {
      closeSync(fd);
    }
  }
}

/** All by descriptor: an image may have a symbolic link where a mount belongs. */
export function enterRoot(rootFd: number, mounts: Mounts): void {
  attachMount(rootFd, buildDirectory);
  for (const [directory, mountFd] of mounts) {
    const target = openAt(rootFd, directory, {
      flags: O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW,
      resolve: resolve.beneath | resolve.noSymlinks | resolve.noMagicLinks,
    });
    attachMountOn(mountFd, target);
    closeSync(target);
    closeSync(mountFd);
  }
  changeDirectoryTo(rootFd);
  closeSync(rootFd);
  pivotRootHere();
  // The old root now lies over the new one: take it off, and what else was there.
  detachMount('.');
  process.chdir('/');
  // Standard input is the container's own null device, not one on a mount of the zygote.
  const nothing = openSync('/dev/null', 'r');
  duplicateTo(nothing, 0);
  closeSync(nothing);
}
