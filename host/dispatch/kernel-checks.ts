/** What the kernel under this process offers, mechanism by mechanism; changes nothing. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { messageOf } from '../base/errors.ts';
import { examineCgroups } from '../cgroup/offer.ts';
import { readPressure } from '../cgroup/pressure.ts';
import { hasClone3, hasPidfd } from '../sys/kernel-features.ts';
import { knowsMountOption } from '../sys/mount.ts';
import { seccompApiLevel } from '../sys/seccomp.ts';
import type { Check } from './control-api.ts';

export function checkKernel(): Check[] {
  return [
    kernel(release()),
    cgroups(),
    pressure(),
    namespaces(),
    processes(),
    overlay(),
    seccomp(),
    securityModules(),
    btf(),
  ];
}

/** 5.19 is the first with overlayfs on idmapped mounts. */
export function kernel(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  const enough = major > 5 || (major === 5 && minor >= 19);
  if (enough) return check('kernel', 'ok', version);
  return check('kernel', 'fail', `${version}: 5.19 has overlayfs on idmapped layers`);
}

function cgroups(): Check {
  try {
    const { layout, controllers, missing, kill, slowEntry } = examineCgroups();
    if (missing.length > 0)
      return check('cgroups', 'fail', `${layout}: without ${missing.join(', ')}`);
    const means = kill === false ? 'frozen, then killed one by one' : 'cgroup.kill';
    const offer = `${layout}: ${controllers.join(' ')}; ${means}`;
    if (!slowEntry) return check('cgroups', 'ok', offer);
    const advice = 'mount -o remount,favordynmods /sys/fs/cgroup (Linux 6.0)';
    return check('cgroups', 'warn', `${offer}; a forked start waits some 10 ms: ${advice}`);
  } catch (error) {
    return check('cgroups', 'fail', messageOf(error));
  }
}

function pressure(): Check {
  const kinds = ['cpu', 'io', 'memory'].filter((kind) => read(`/proc/pressure/${kind}`) !== '');
  if (kinds.length === 0)
    return check('pressure', 'warn', 'no PSI: boot with psi=1, where the kernel has it');
  const { cpuSome, memorySome, memoryBytes, availableBytes } = readPressure();
  const waits = `tasks wait ${cpuSome} % of the time for CPU, ${memorySome} % for memory`;
  const available = `${Math.round((availableBytes / memoryBytes) * 100)} % of memory available`;
  return check('pressure', 'ok', `PSI of ${kinds.join(', ')}: ${waits}; ${available}`);
}

function namespaces(): Check {
  const wanted = ['user', 'pid', 'net', 'mnt', 'ipc', 'uts', 'cgroup'];
  const none = wanted.filter(
    (name) => !(Number(read(`/proc/sys/user/max_${name}_namespaces`)) > 0),
  );
  if (none.length > 0)
    return check('namespaces', 'fail', `none of ${none.join(', ')} may be made on this machine`);
  const timed = existsSync('/proc/self/ns/time') ? ['time'] : [];
  return check('namespaces', 'ok', [...wanted, ...timed].join(' '));
}

function processes(): Check {
  const parts = [...(hasPidfd() ? ['pidfd'] : []), ...(hasClone3() ? ['clone3'] : [])];
  if (parts.length === 2) return check('processes', 'ok', parts.join(' '));
  return check(
    'processes',
    'fail',
    'the kernel, or a filter around this process, lacks pidfd or clone3',
  );
}

function overlay(): Check {
  if (!/\boverlay$/m.test(read('/proc/filesystems')))
    return check('overlay', 'warn', 'not loaded: "modprobe overlay" may bring it');
  const parameters = '/sys/module/overlay/parameters';
  const features = existsSync(parameters) ? readdirSync(parameters).toSorted() : [];
  return check('overlay', 'ok', [layersByName(), ...features].join(' '));
}

function layersByName(): string {
  if (process.getuid?.() !== 0) return 'in the kernel (root sees more)';
  // Before 6.8 many layers go into one list, which takes a longer way round.
  return knowsMountOption('overlay', { key: 'lowerdir+', value: '/' }) ? 'lowerdir+' : 'lowerdir';
}

function seccomp(): Check {
  const actions = read('/proc/sys/kernel/seccomp/actions_avail').trim();
  if (!actions.includes('errno')) return check('seccomp', 'fail', 'the kernel has no filters');
  const level = seccompApiLevel();
  if (level === undefined)
    return check('seccomp', 'fail', 'no libseccomp.so.2: install the Debian package libseccomp2');
  return check('seccomp', 'ok', `${actions}; libseccomp API level ${level}`);
}

function securityModules(): Check {
  const modules = read('/sys/kernel/security/lsm').trim();
  if (modules !== '') return check('lsm', 'ok', modules.replaceAll(',', ' '));
  return check(
    'lsm',
    'warn',
    'unknown: mount -t securityfs securityfs /sys/kernel/security shows them',
  );
}

function btf(): Check {
  if (existsSync('/sys/kernel/btf/vmlinux')) return check('btf', 'ok', 'for eBPF programs');
  return check('btf', 'warn', 'none: no eBPF program can be fitted to this kernel');
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function check(name: string, status: Check['status'], detail: string): Check {
  return { name, status, detail };
}
