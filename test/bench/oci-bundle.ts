/** What our containers have, in the words of the OCI runtime specification. */
import { openFilesMax } from '../../host/engine.ts';
import { nodeProfile } from '../../host/security/profile-node.ts';
import type { ArgumentRule } from '../../host/security/profile.ts';
import { oomScore } from '../../host/sys/oom-score.ts';
import { maskedNames } from '../../runtime-init/proc-mount.ts';

export interface Limits {
  memoryBytes: number;
  cpuCores: number;
  pidsMax: number;
}

/** The content of a bundle's `config.json`; without `limits` it sets none. */
export function ociConfig(options: {
  rootfs: string;
  command: readonly string[];
  cgroupsPath: string;
  limits: Limits | undefined;
}): unknown {
  const { rootfs, command, cgroupsPath, limits } = options;
  const mapping = [{ containerID: 0, hostID: 200_000_000, size: 65_536 }];
  const tmpfs = ['nosuid', 'nodev', 'mode=1777', 'size=67108864'];
  return {
    ociVersion: '1.0.2',
    hostname: 'hatch-bench',
    process: {
      terminal: false,
      user: { uid: 1000, gid: 1000 },
      args: command,
      env: ['PATH=/usr/local/bin:/usr/bin:/bin'],
      cwd: '/',
      noNewPrivileges: true,
      oomScoreAdj: oomScore.function,
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: openFilesMax, hard: openFilesMax },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
      capabilities: { bounding: [], effective: [], permitted: [], ambient: [] },
    },
    root: { path: rootfs, readonly: false },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
      { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: tmpfs },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: tmpfs },
    ],
    linux: {
      cgroupsPath,
      ...(limits === undefined ? {} : { resources: resourcesOf(limits) }),
      uidMappings: mapping,
      gidMappings: mapping,
      namespaces: ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup', 'user'].map((type) => ({
        type,
      })),
      maskedPaths: maskedNames.map((name) => `/proc/${name}`),
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/sys'],
      seccomp: seccompOf(),
    },
  };
}

function resourcesOf(limits: Limits): unknown {
  const period = 100_000;
  return {
    memory: { limit: limits.memoryBytes },
    cpu: { quota: Math.round(limits.cpuCores * period), period },
    pids: { limit: limits.pidsMax },
  };
}

/** The profile that our functions run under. */
function seccompOf(): unknown {
  const { allowed, conditional, absent } = nodeProfile;
  const errno = { EPERM: 1, ENOSYS: 38 };
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: errno.EPERM,
    syscalls: [
      { names: Object.keys(allowed), action: 'SCMP_ACT_ALLOW' },
      ...conditional.map(allowIf),
      { names: Object.keys(absent), action: 'SCMP_ACT_ERRNO', errnoRet: errno.ENOSYS },
    ],
  };
}

function allowIf({ call, tests }: ArgumentRule): unknown {
  const args = tests.map(({ argument, mask, equals }) => ({
    index: argument,
    value: Number(mask),
    valueTwo: Number(equals),
    op: 'SCMP_CMP_MASKED_EQ',
  }));
  return { names: [call], action: 'SCMP_ACT_ALLOW', args };
}
