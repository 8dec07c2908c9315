/**
 * Requests to a zygote: one JSON message each on a SOCK_SEQPACKET socket, descriptors beside it in
 * the order that `fds` names. Every request gets one answer, in order.
 */
import type { SeccompProfile } from './invoke.ts';

/** What a descriptor sent along is for. `joinCgroup` may occur several times. */
export type FdRole =
  | 'control'
  | 'invoke'
  | 'answers'
  | 'bell'
  | 'stdout'
  | 'userNamespace'
  | 'networkNamespace'
  | 'joinCgroup';

export type ZygoteRequest =
  /**
   * For a blank pair, with `control`, `invoke`, `answers`, `bell` and `stdout`: both wait for an
   * order.
   */
  | { type: 'fork'; id: number; fds: FdRole[] }
  /** For a container by a zygote that does not fork, with all descriptors. */
  | { type: 'boot'; id: number; fds: FdRole[]; container: ContainerIdentity }
  | { type: 'networkNamespace'; id: number };

/**
 * What a blank pair becomes: the first message to PID 1 on its control socket, and to the
 * function's process on its invoke socket. That one wakes up by the bell, and then wakes PID 1.
 */
export interface ContainerOrder {
  container: ContainerIdentity;
  fds: FdRole[];
  /** When it was given. */
  startNs: number;
}

/** Beside a number that nobody asked by: a listener to refused calls, of an executed container. */
export const listenerAnswerId = -1;

export type ZygoteAnswer =
  /** With the pidfd of PID 1 for a fork, or the namespace's descriptor. */
  { id: number; pid?: number } | { id: number; error: string };

/**
 * The answer to the setup, once the zygote is warm; from one that forks, with the listener to the
 * calls that its filter refuses.
 */
export interface ZygoteHello {
  id: 0;
  /** How it makes containers: by forking itself, or by executing a new Node.js for each. */
  mode: 'fork' | 'exec';
  /** Why it does not fork. */
  reason?: string;
}

/** What the processes of a container need to know of themselves before they are assigned. */
export interface ContainerIdentity {
  /** Unique on the host; also the host name until a function is assigned. */
  id: string;
  /** User and group of the function inside the container. */
  uid: number;
  gid: number;
}

/** Sent once, before any request: what the zygote hands down to every child. */
export interface ZygoteSetup {
  /** Seccomp programs, base64. */
  seccomp: {
    /** What both processes of a container are under from the beginning. */
    base: string;
    /** What each loads last; PID 1 that of node. */
    seals: Record<SeccompProfile, string>;
  };
  /** The ABI by which functions are kept from files that are not theirs; 0 without Landlock. */
  landlockAbi: number;
  /** Under which both processes of a container are, where the kernel has labels. */
  label: SecurityLabel | undefined;
  /** For /tmp and /dev/shm each. */
  tmpfsBytes: number;
  openFilesMax: number;
  /** `never`: containers are executed, as if this Node.js could not fork. */
  fork: 'auto' | 'never';
}

/** AppArmor's profile, or SELinux's context. */
export interface SecurityLabel {
  module: 'apparmor' | 'selinux';
  name: string;
}

/** Messages from PID 1 to the host: one JSON line each. */
export type InitMessage =
  /** Privileges are dropped, the loop runs. */
  | { type: 'running' }
  /** The function process ended; what it left is being cleared away. */
  | { type: 'exited'; exitCode: number; signal?: number };

/** One line from the host to PID 1: a signal to pass on to the function. */
export interface InitCommand {
  signal: number;
}
