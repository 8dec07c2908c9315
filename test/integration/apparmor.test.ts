/**
 * AppArmor's profile, on every path; Debian's kernel has it (`npm run test:vm`). Where the kernel
 * has not, a host says so, and no process has a label.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { appArmorProfile, chooseLabel } from '../../host/security/labels.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import { startProbe, type Probe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';

const paths = {
  parked: { config: { parked: 2 } },
  forked: { config: { parked: 0 } },
  booted: { config: { parked: 0, fork: 'never' } },
} as const;

const { apparmor } = chooseLabel();
const active = readText('/sys/module/apparmor/parameters/enabled').startsWith('Y');
// With AppArmor, nothing less than the profile in force will do.
assert.equal(apparmor === 'enforced', active, apparmor);

for (const [path, options] of Object.entries(paths))
  describe(`on a ${path} instance`, () => {
    const getHost = hostForFile(options);

    test('both processes, all threads and what they start are under the profile', async () => {
      const probe = await startProbe(getHost(), 'labelled');
      assert.equal(probe.startPath, path);
      const labels = [probe.initPid, probe.functionPid].flatMap((pid) =>
        readdirSync(`/proc/${pid}/task`).map((thread) =>
          readText(`/proc/${pid}/task/${thread}/attr/current`).trim(),
        ),
      );
      const expected = active ? `${appArmorProfile} (enforce)` : '';
      for (const label of labels) assert.equal(label, expected);
      const { stdout } = await shell(probe, 'cat /proc/self/attr/current 2>/dev/null');
      assert.equal(stdout.trim(), expected);
    });

    test('ordinary work goes on', async () => {
      const probe = await startProbe(getHost(), 'works');
      for (const command of [
        'cd /tmp && echo 1 > a && mkdir b && mv a b/a && ln -s b c && rm -r b c && mkfifo d',
        'cd /dev/shm && echo 1 > a && rm a; cd /home/function && touch a && ln a b && rm a b',
        'sleep 10 & kill $!; wait $!; echo 1 > /dev/null; ps > /dev/null; cat /etc/passwd | wc -l',
      ]) {
        const { status, stderr } = await shell(probe, command);
        assert.equal(status, 0, `${command}: ${stderr}`);
      }
    });
  });

/** Root outside any container, with no other layer: what is refused then, the profile refuses. */
const profileTest = () => {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-apparmor-'));
  const file = join(directory, 'file');
  try {
    for (const command of [
      `mount -t tmpfs hatch-apparmor ${directory} && umount ${directory}`,
      `touch ${file} && chown 1 ${file}`,
      'head -c 1 /proc/kallsyms',
      'read value </proc/sys/kernel/core_uses_pid; echo $value >/proc/sys/kernel/core_uses_pid',
      'touch /srv/hatch-apparmor && rm /srv/hatch-apparmor',
      'echo changeprofile unconfined >/proc/self/attr/apparmor/current',
      'kill -0 1',
    ]) {
      const free = sh(command);
      assert.equal(free.status, 0, `${command}, unconfined: ${free.stderr}`);
      const label = `echo exec ${appArmorProfile} >/proc/self/attr/apparmor/exec`;
      const exec = `${label}; exec "$0" sh -c "$1"`;
      const confined = sh(exec, '/bin/busybox', command);
      assert.notEqual(confined.status, 0, command);
      assert.match(confined.stderr, /denied|not permitted/i, command);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
};
if (active) test('the profile by itself refuses what no function needs, also to root', profileTest);

function sh(script: string, ...args: string[]): { status: number | null; stderr: string } {
  return spawnSync('busybox', ['sh', '-c', script, ...args], { encoding: 'utf8' });
}

function shell(probe: Probe, command: string): Promise<RunResult> {
  return probe.ask<RunResult>({ do: 'run', command: ['/bin/busybox', 'sh', '-c', command] });
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
