/** The layers that isolate a container, by the names that configuration, traces and doctor use. */

/** Every container starts with all of these or not at all: each start verifies or fails. */
export const alwaysEnforced = {
  namespaces: 'own processes, mounts, network, IPC, names and groups, owned by the host',
  'user-namespace': 'own user ids, shared with no other living container; joined last',
  'namespace-limits': 'no further namespace inside, not even with all rights',
  'control-groups': 'memory, CPU and processes are limited before the first process is in',
  'own-root': 'an overlay on read-only layers; no set-user-id programs, no devices',
  'masked-proc': '/proc is read-only, and what tells of the machine is covered',
  'no-capabilities': 'every capability set is empty, securebits are locked',
  'no-new-privileges': 'no program gives more rights than it is started with',
  seccomp: 'system calls by an allowlist',
  'own-keyring': 'a session keyring that nobody else is in',
  'sealed-program': 'the Node.js that runs is on a mount that nobody can write to',
} as const;

export type AlwaysEnforced = keyof typeof alwaysEnforced;

/** The kernel may lack these, or have them switched off. */
const kernelModules = ['landlock', 'landlock-ports', 'apparmor', 'selinux'] as const;

export const isolationLayerNames = [
  ...(Object.keys(alwaysEnforced) as AlwaysEnforced[]),
  ...kernelModules,
] as const;

export type IsolationLayerName = (typeof isolationLayerNames)[number];

/** `enforced`, or `unavailable: ` and why. */
export type IsolationState = 'enforced' | `unavailable: ${string}`;

/** Of every layer, what it is on this host. */
export type Isolation = Readonly<Record<IsolationLayerName, IsolationState>>;
