/** Checks 31 to 36: /proc and /sys. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { enter, oomScoreOf, type Probe } from '../support/containers.ts';
import { asUser, assertRefused, outside, type Check } from './check.ts';

/** A write to any of them would be the machine's, or a way to run something as its root. */
const settings = [
  '/proc/sys/kernel/core_pattern',
  '/proc/sys/kernel/modprobe',
  '/proc/sys/kernel/hotplug',
  '/proc/sys/kernel/hostname',
  '/proc/sys/kernel/ns_last_pid',
  '/proc/sys/vm/overcommit_memory',
  '/proc/sys/vm/drop_caches',
  '/proc/sys/net/ipv4/ip_forward',
  '/proc/sys/fs/binfmt_misc/register',
  '/proc/sys/user/max_user_namespaces',
  '/proc/sysrq-trigger',
  '/proc/irq/default_smp_affinity',
  '/sys/kernel/uevent_helper',
  '/sys/kernel/uevent_support',
  '/sys/kernel/security/apparmor/.load',
];
const secrets = [
  '/proc/kcore',
  '/proc/kallsyms',
  '/proc/kmsg',
  '/proc/keys',
  '/proc/timer_list',
  '/proc/sched_debug',
  '/proc/interrupts',
  '/proc/iomem',
  '/proc/slabinfo',
  '/proc/vmallocinfo',
  '/proc/kpagecount',
  '/proc/modules',
  '/proc/config.gz',
  '/proc/cmdline',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
  '/sys/kernel/notes',
  '/sys/module',
];
const containerRoot = ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];

export const procChecks: readonly Check[] = [
  {
    number: 31,
    what: 'no setting of the kernel can be written to, with all rights inside neither',
    async run({ probe }) {
      const refused = /^(EACCES|EROFS|ENOENT|EPERM)$/;
      for (const code of await writeAll(probe, settings)) assert.match(code, refused);
      const script = settings.map((path) => `echo 0 2>/dev/null >${path} && echo ${path}`);
      const asRoot = enter(probe.functionPid, containerRoot, ['sh', '-c', script.join('\n')]);
      assert.equal(asRoot.stdout, '', 'written to by root of the container');
      // With its own /proc root of the host gets as far as to what the setting means.
      const path = '/proc/sys/kernel/hostname';
      assert.equal(outside(['sh', '-c', `echo hatch >${path} && cat ${path}`]).stdout, 'hatch\n');
    },
  },
  {
    number: 32,
    what: 'nothing tells of the kernel, its memory, its log, or the hardware',
    async run(subject) {
      const lengths = await subject.probe.evaluate((paths) => {
        const { readFileSync: read, statSync, readdirSync } = process.getBuiltinModule('node:fs');
        return paths.map((path) => {
          try {
            return statSync(path).isDirectory() ? readdirSync(path).length : read(path).length;
          } catch (error) {
            return (error as NodeJS.ErrnoException).code ?? '';
          }
        });
      }, secrets);
      for (const [at, length] of lengths.entries())
        assert.ok(length === 0 || length === 'ENOENT' || length === 'EACCES', secrets[at]);
      // Empty, or where AppArmor is active not even that.
      const hidden = secrets.filter((path, at) => existsSync(path) && lengths[at] !== 'ENOENT');
      assert.ok(hidden.length >= 8, hidden.join(' '));
      await assertRefused(subject, [
        ['syslog', 3, 0, 1],
        ['syslog', 10, 0, 0],
      ]);
      for (const path of ['/proc/kallsyms', '/proc/interrupts', '/proc/cmdline'])
        assert.ok(readFileSync(path).length > 0, path);
    },
  },
  {
    number: 33,
    what: 'its own oom score, id maps and groups are not its to change',
    async run({ probe }) {
      const own = ['oom_score_adj', 'uid_map', 'gid_map', 'setgroups', 'oom_adj'];
      const codes = await writeAll(
        probe,
        own.map((name) => `/proc/self/${name}`),
      );
      for (const code of codes) assert.match(code, /^(EACCES|EROFS|EPERM)$/);
      assert.equal(oomScoreOf(probe.functionPid), 600);
      const raised = outside(['sh', '-c', 'echo 700 >/proc/self/oom_score_adj']);
      assert.equal(raised.status, 0, raised.stderr);
    },
  },
  {
    number: 34,
    what: 'labels, the memory of PID 1 and its environment are out of reach',
    async run({ probe }) {
      const paths = ['attr/current', 'attr/exec', 'mem', 'environ', 'maps', 'fd', 'cwd', 'root'];
      const codes = await probe.evaluate((names) => {
        const fs = process.getBuiltinModule('node:fs');
        return names.map((name) => {
          try {
            if (name.startsWith('attr')) fs.writeFileSync(`/proc/self/${name}`, 'unconfined');
            else if (name === 'fd') fs.readdirSync(`/proc/1/${name}`);
            else if (name === 'cwd' || name === 'root') fs.readlinkSync(`/proc/1/${name}`);
            else fs.readFileSync(`/proc/1/${name}`);
            return name;
          } catch (error) {
            return (error as NodeJS.ErrnoException).code ?? '';
          }
        });
      }, paths);
      for (const code of codes) assert.match(code, /^(EACCES|EROFS|EPERM|ENOENT)$/);
      assert.ok(readFileSync(`/proc/${probe.initPid}/maps`).length > 0);
    },
  },
  {
    number: 35,
    what: 'no sysctl of the machine can be asked for',
    cannotApply: 'functions have no sysctls: the manifest refuses the word',
    async run({ host }) {
      const sysctls = { 'kernel.core_pattern': '|/x' };
      await assert.rejects(host.deploy('test/functions/probe', { name: 'sysctl', sysctls }), {
        code: 'deploy.invalid',
      });
    },
  },
  {
    number: 36,
    what: 'what the engine writes reaches the real files (CVE-2025-52881)',
    async run({ probe }) {
      // It writes before the container has a root, in a /proc of its own; here it is read back.
      assert.deepEqual([probe.initPid, probe.functionPid].map(oomScoreOf), [300, 600]);
      const script = 'cat /proc/sys/user/max_*_namespaces';
      const limits = enter(probe.functionPid, containerRoot, ['sh', '-c', script]).stdout;
      assert.deepEqual([...new Set(limits.trim().split('\n'))], ['0']);
      const ofHost = asUser(65_534, ['cat', '/proc/sys/user/max_user_namespaces']).stdout;
      assert.ok(Number(ofHost) > 0);
    },
  },
];

/** The codes of the errors, or the path where there was none. */
async function writeAll(probe: Probe, paths: string[]): Promise<string[]> {
  return probe.evaluate((all) => {
    return all.map((path) => {
      try {
        process.getBuiltinModule('node:fs').writeFileSync(path, '0');
        return path;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code ?? '';
      }
    });
  }, paths);
}
