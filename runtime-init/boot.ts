/**
 * The processes of a container that is executed, not forked: PID 1 and the function, each a Node.js
 * of its own. Both run without rights from their first instruction: whatever needs some was done by
 * the zygote (`exec-zygote.ts`) or by the command below, before.
 *
 * Descriptors of PID 1: 3 control, 4 invoke, 5 what the function is to be, 6 the user namespace,
 * 7 answers, then the groups to join. Of the function: 3 invoke, 4 what it is to be, 5 answers.
 */
import { spawn } from 'node:child_process';
import { closeSync, readFileSync, writeSync } from 'node:fs';
import { encodeJsonFrame, frameType } from '../host/protocol/frame.ts';
import type { ContainerIdentity, SecurityLabel, ZygoteSetup } from '../host/protocol/zygote.ts';
import { exitNow, openPidFd } from '../host/sys/fork.ts';
import { oomScore, setOomScore } from '../host/sys/oom-score.ts';
import { blockAllSignals, openSignalFd, setDumpable } from '../host/sys/process.ts';
import { loadListenedSeccompFilter, loadSeccompFilter } from '../host/sys/seccomp-filter.ts';
import { sendMessage } from '../host/sys/socket.ts';
import type { Assigned } from './exec-zygote.ts';
import { supervise } from './init.ts';
import { restrict } from './landlock.ts';
import { connectToHost, installOutput, sendToHost } from './output.ts';
import { verifyDropped } from './privileges.ts';
import { labelCommand, verifyLabel } from './security-label.ts';
import { FunctionServer, leaveThroughExitNow } from './serve.ts';
import { installStackTraces } from './stack-traces.ts';

export interface Boot {
  setup: ZygoteSetup;
  identity: ContainerIdentity;
  /** How many descriptors of groups there are. */
  joinCount: number;
}

const reapEveryMs = 1000;
const nodePath = '/usr/local/bin/node';
const runtimePath = '/hatch/runtime-init.cjs';
const nodeArguments = ['--disable-sigusr1', '--disable-warning=ExperimentalWarning'];
const securebits = [
  'noroot',
  'noroot_locked',
  'no_setuid_fixup',
  'no_setuid_fixup_locked',
  'keep_caps_locked',
];

/**
 * The command that becomes PID 1. A user namespace can be entered by a process of one thread only,
 * which a Node.js never is: so small programs of the base image do it first, each executing the
 * next.
 */
export function bootCommand({ setup, identity, joinCount }: Boot): [string, ...string[]] {
  const joinFds = Array.from({ length: joinCount }, (_, index) => 8 + index);
  const script = [
    // Each process moves itself: see `container.ts`.
    ...joinFds.map((fd) => `echo 0 >/proc/self/fd/${fd} && exec ${fd}>&- || exit 125`),
    'mount -t proc -o nosuid,nodev,noexec proc /proc || exit 125',
    `echo ${oomScore.init} >/proc/self/oom_score_adj`,
    `ulimit -c 0; ulimit -n ${setup.openFilesMax}`,
    'exec "$@"',
  ].join('\n');
  const { uid, gid } = identity;
  const joinCgroupNamespace = ['/usr/bin/unshare', '--cgroup'];
  const joinUserNamespace = ['/bin/busybox', 'nsenter', '-U/proc/self/fd/6', '-S', '0', '-G', '0'];
  // As `privileges.ts` has it.
  const limits = '/proc/sys/user/max_*_namespaces';
  const forbid = `for file in ${limits}; do echo 0 >"$file" || exit 125; done; exec "$@"`;
  const forbidNamespaces = ['/bin/busybox', 'sh', '-c', forbid, 'sh'];
  const dropRights = [
    '/usr/bin/setpriv',
    `--reuid=${uid}`,
    `--regid=${gid}`,
    '--clear-groups',
    '--inh-caps=-all',
    '--ambient-caps=-all',
    '--bounding-set=-all',
    '--no-new-privs',
    `--securebits=${securebits.map((bit) => `+${bit}`).join(',')}`,
  ];
  return [
    '/bin/busybox',
    'sh',
    '-c',
    script,
    'sh',
    ...joinCgroupNamespace,
    ...joinUserNamespace,
    ...forbidNamespaces,
    ...dropRights,
    // Where no right is left that the label would refuse.
    ...labelCommand(setup.label),
    nodePath,
    ...nodeArguments,
    runtimePath,
    'boot-init',
    setup.seccomp.base,
    setup.seccomp.seals.node,
    JSON.stringify(setup.label ?? null),
  ];
}

/** PID 1: starts the function process under the base filter, then does what every PID 1 does. */
export function bootInit(): void {
  const [control, invoke, assign, userNamespace, answers] = [3, 4, 5, 6, 7] as const;
  closeSync(userNamespace);
  blockAllSignals();
  setDumpable(false);
  const [base = '', seal = '', label = 'null'] = process.argv.slice(3);
  verifyLabel((JSON.parse(label) as SecurityLabel | null) ?? undefined);
  const listener = loadListenedSeccompFilter(Buffer.from(base, 'base64'));
  sendMessage(assign, Buffer.from('l'), [listener]);
  closeSync(listener);
  // Under the filter from its first instruction, so that libuv never meets an io_uring.
  const child = spawn(nodePath, [...nodeArguments, runtimePath, 'boot-function'], {
    stdio: ['ignore', 1, 2, invoke, assign, answers],
  });
  if (child.pid === undefined) exitNow(127);
  for (const fd of [invoke, assign, answers]) closeSync(fd);
  sealAllThreads(seal);
  supervise({
    control,
    signals: openSignalFd(),
    functionPid: child.pid,
    // Node.js unblocks signals before it starts its threads.
    unreliable: { functionFd: openPidFd(child.pid), reapEveryMs },
  });
}

/** The function process: waits until its root is in place, then loads the function. */
export function bootFunction(): void {
  const [invoke, assign, answers] = [3, 4, 5] as const;
  setOomScore(oomScore.function);
  installOutput();
  installStackTraces();
  leaveThroughExitNow();
  connectToHost(answers);
  sendToHost(encodeJsonFrame(frameType.parked, 0, { steps: [] }));
  writeSync(assign, '.');
  const text = readFileSync(assign, 'utf8');
  closeSync(assign);
  // The zygote could not give it a root, or the host took the container down.
  if (text === '') exitNow(1);
  const { specialisation, landlockAbi, seal, steps } = JSON.parse(text) as Assigned;
  Object.assign(process.env, specialisation.env);
  process.chdir('/function');
  // Its socket first: a profile may not let it find out what it has.
  const server = new FunctionServer({ invoke, answers });
  // Threads that Node.js has started before stay out: none of them works on files or sockets.
  restrict({
    abi: landlockAbi,
    connectTcpPorts: specialisation.network?.connectTcpPorts,
    volumes: specialisation.volumes,
  });
  sealAllThreads(seal);
  server.load(specialisation, steps);
}

/** The last filter, base64: from here on foreign code may run. */
function sealAllThreads(seal: string): void {
  loadSeccompFilter(Buffer.from(seal, 'base64'), { allThreads: true });
  verifyDropped();
}
