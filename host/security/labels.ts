/**
 * The label under which AppArmor or SELinux knows the processes of a container. A kernel has one of
 * the two at most. Nothing is loaded here: a policy is the operator's.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import type { IsolationState } from '../base/isolation.ts';
import type { SecurityLabel } from '../protocol/zygote.ts';

/** What is asked of the kernel: tests have one of their own. */
export interface KernelFiles {
  /** Undefined when it cannot be read. */
  read(path: string): string | undefined;
  accepts(path: string, text: string): boolean;
}

export interface Labelling {
  apparmor: IsolationState;
  selinux: IsolationState;
  /** Of the one that is `enforced`. */
  label: SecurityLabel | undefined;
}

export const appArmorProfile = 'hatch-function';

/** `seLinuxLabel`: the whole context, such as `system_u:system_r:container_t:s0`. */
export function chooseLabel(
  { seLinuxLabel }: { seLinuxLabel?: string | undefined } = {},
  kernel: KernelFiles = kernelFiles,
): Labelling {
  const apparmor = appArmor(kernel);
  const selinux = seLinux(kernel, seLinuxLabel);
  if (apparmor === 'enforced')
    return { apparmor, selinux, label: { module: 'apparmor', name: appArmorProfile } };
  const label: SecurityLabel | undefined =
    selinux === 'enforced' && seLinuxLabel !== undefined
      ? { module: 'selinux', name: seLinuxLabel }
      : undefined;
  return { apparmor, selinux, label };
}

function appArmor(kernel: KernelFiles): IsolationState {
  if (kernel.read('/sys/module/apparmor/parameters/enabled')?.startsWith('Y') !== true)
    return 'unavailable: not active in this kernel';
  const own = kernel.read('/proc/self/attr/apparmor/current')?.trim() ?? 'an unknown profile';
  // From under a profile only those can be reached that it names.
  if (own !== 'unconfined') return `unavailable: the host itself is confined, by ${own}`;
  const profiles = kernel.read('/sys/kernel/security/apparmor/profiles');
  if (profiles === undefined)
    return 'unavailable: securityfs is not mounted on /sys/kernel/security';
  const loaded = profiles.split('\n').find((line) => line.startsWith(`${appArmorProfile} (`));
  if (loaded === undefined)
    return `unavailable: load it by "apparmor_parser --replace ops/apparmor/${appArmorProfile}"`;
  if (!loaded.endsWith('(enforce)')) return `unavailable: loaded as ${loaded}`;
  return 'enforced';
}

function seLinux(kernel: KernelFiles, label: string | undefined): IsolationState {
  const enforce = kernel.read('/sys/fs/selinux/enforce')?.trim();
  if (enforce === undefined) return 'unavailable: not active in this kernel';
  if (enforce !== '1') return 'unavailable: permissive, so nothing is refused';
  if (label === undefined) return 'unavailable: no label is configured (seLinuxLabel)';
  // The kernel looks the label up in the policy that is loaded.
  if (!kernel.accepts('/sys/fs/selinux/context', label))
    return `unavailable: the policy has no label "${label}" (seLinuxLabel)`;
  return 'enforced';
}

const kernelFiles: KernelFiles = {
  read(path) {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return undefined;
    }
  },
  accepts(path, text) {
    try {
      writeFileSync(path, text);
      return true;
    } catch {
      return false;
    }
  },
};
