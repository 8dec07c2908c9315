/** Check 90: what AppArmor's profile refuses by itself, to who has every other right. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { appArmorProfile, chooseLabel } from '../../host/security/labels.ts';
import {
  callsOutside,
  outside,
  outsideUnderProfile,
  type Call,
  type Check,
  type Subject,
} from './check.ts';

const { apparmor } = chooseLabel();
const nowhere = 1;
const noDirectory = -1;
const CLONE_NEWNS = 0x2_0000;
const CLONE_NEWUTS = 0x400_0000;
/** Where the kernel asks for the right before it looks at the rest. */
const calls: readonly Call[] = [
  ['unshare', CLONE_NEWNS],
  ['unshare', CLONE_NEWUTS],
  ['fsopen', nowhere, 0],
  ['fspick', noDirectory, nowhere, 0],
  ['open_tree', noDirectory, nowhere, 1],
  ['move_mount', noDirectory, nowhere, noDirectory, nowhere, 0],
  ['pivot_root', nowhere, nowhere],
  ['sethostname', nowhere, 4],
  ['setdomainname', nowhere, 4],
  ['init_module', nowhere, 8, nowhere],
  ['finit_module', -1, nowhere, 0],
  ['delete_module', nowhere, 0],
  ['reboot', 0, 0, 0, 0],
  ['kexec_load', 0, 0, 0, 0xffff],
  ['swapon', nowhere, 0],
  ['syslog', 10, 0, 0],
  ['iopl', 3],
  ['ioperm', 0x70, 1, 1],
  ['open_by_handle_at', -1, nowhere, 0],
  // Packets, raw packets of IPv4 and IPv6.
  ['socket', 17, 3, 0],
  ['socket', 2, 3, 1],
  ['socket', 10, 3, 58],
];
const commands = [
  // Of a process outside the profile.
  '(sleep 1; kill $victim) & echo $victim | $program watch-exits',
  'kill -0 $victim',
  'head -c 1 /proc/$victim/environ',
  'mount -t tmpfs none /mnt',
  'mount --bind /tmp /mnt',
  'chroot / true',
  'mknod $directory/zero c 1 5',
  'chown 1 $directory',
  'echo x >/hatch-apparmor && rm /hatch-apparmor',
  'echo x >/etc/hatch-apparmor && rm /etc/hatch-apparmor',
  'echo hatch >/proc/sys/kernel/domainname',
  'echo changeprofile unconfined >/proc/self/attr/apparmor/current',
  'head -c 1 /dev/mem >/dev/null',
];

export const labelChecks: readonly Check[] = [
  {
    number: 90,
    what: "AppArmor's profile alone refuses mounts, tracing, raw packets, settings, more rights",
    run: apparmor === 'enforced' ? assertProfileRefuses : assertNoLabel,
    ...(apparmor === 'enforced' ? {} : { cannotApply: `AppArmor is ${apparmor}` }),
  },
];

function assertProfileRefuses({ program }: Subject): Promise<void> {
  const confined = callsOutside(program, calls, outsideUnderProfile);
  const wrong = Object.entries(confined).filter(([, told]) => !/^(EPERM|EACCES)$/.test(told));
  assert.deepEqual(wrong, []);
  const free = Object.entries(callsOutside(program, calls));
  assert.deepEqual(
    free.filter(([, told]) => /^(EPERM|EACCES)$/.test(told)),
    [],
    'refused without the profile, too: this shows nothing',
  );
  for (const command of commands) {
    const unconfined = outside(scriptOf(program, command));
    assert.equal(unconfined.status, 0, `${command}, unconfined: ${unconfined.stderr}`);
    const { status, stderr } = outside(scriptOf(program, command, { confined: true }));
    assert.notEqual(status, 0, command);
    assert.match(stderr, /denied|not permitted/i, command);
  }
  return Promise.resolve();
}

/** With a process and a directory that are not under the profile. */
function scriptOf(program: string, command: string, { confined = false } = {}): string[] {
  const label = `echo "exec ${appArmorProfile}" >/proc/self/attr/apparmor/exec`;
  const lines = [
    'program=$0 directory=$(mktemp -d)',
    'sleep 60 & victim=$!',
    'export program directory victim',
    ...(confined ? [label] : []),
    'busybox sh -c "$1"',
    'status=$?',
    'rm -r "$directory"',
    'exit $status',
  ];
  return ['sh', '-c', lines.join('\n'), program, command];
}

function assertNoLabel({ probe }: Subject): Promise<void> {
  for (const pid of [probe.initPid, probe.functionPid])
    assert.doesNotMatch(readLabel(pid), new RegExp(appArmorProfile));
  return Promise.resolve();
}

/** Empty where no module has labels. */
export function readLabel(of: number | 'self'): string {
  try {
    return readFileSync(`/proc/${of}/attr/current`, 'utf8').replaceAll('\0', '').trim();
  } catch {
    return '';
  }
}
