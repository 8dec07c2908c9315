/** Checks 13 to 20: mounts, and paths out of the root. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RunResult } from '../functions/probe/handler.ts';
import { enter, enterOk, type Probe } from '../support/containers.ts';
import { asUser, assertRefused, outside, type Check } from './check.ts';

const nowhere = 1;
const noDirectory = -1;
/** As root of the container with all rights in it, and without seccomp. */
const containerRoot = ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];

export const mountChecks: readonly Check[] = [
  {
    number: 13,
    what: 'nothing can be mounted, unmounted, moved or remounted, with all rights inside neither',
    async run(subject) {
      await assertRefused(subject, [
        ['mount', nowhere, nowhere, nowhere, 0, 0],
        ['umount2', nowhere, 0],
        ['move_mount', noDirectory, nowhere, noDirectory, nowhere, 0],
        ['fsopen', nowhere, 0],
        ['fsconfig', -1, 0, 0, 0, 0],
        ['fsmount', -1, 0, 0],
        ['fspick', noDirectory, nowhere, 0],
        ['open_tree', noDirectory, nowhere, 1],
        ['mount_setattr', noDirectory, nowhere, 0, nowhere, 32],
        ['pivot_root', nowhere, nowhere],
        ['chroot', nowhere],
      ]);
      const { functionPid } = subject.probe;
      for (const command of [
        ['mount', '-t', 'tmpfs', 'none', '/mnt'],
        ['mount', '--bind', '/etc', '/mnt'],
        ['mount', '-o', 'remount,rw', '/proc'],
        ['mount', '-o', 'remount,rw,bind', '/dev'],
        ['umount', '/proc/kmsg'],
        ['umount', '-l', '/proc'],
      ]) {
        const refused = enter(functionPid, containerRoot, command);
        assert.notEqual(refused.status, 0, command.join(' '));
        assert.match(refused.stderr, /permission denied|not permitted|superuser|invalid argument/i);
      }
      const allowed = outside(['mount', '-t', 'tmpfs', 'hatch-none', '/mnt']);
      assert.equal(allowed.status, 0, allowed.stderr);
    },
  },
  {
    number: 14,
    what: 'options of a file system cannot even be written, however long (CVE-2022-0185)',
    async run(subject) {
      await assertRefused(subject, [
        ['fsopen', nowhere, 0],
        ['fsconfig', -1, 1, nowhere, nowhere, 0],
      ]);
      const { probe, program } = subject;
      assert.equal(await probe.run('long-options'), 'fsopen: EPERM');
      // Nor with all rights inside and no filter; only root of the host comes to the file system.
      const command = ['/function/probe', 'long-options'];
      assert.equal(enterOk(probe.functionPid, containerRoot, command), 'fsopen: EPERM');
      assert.match(outside([program, 'long-options']).stdout, /^fsconfig: /);
    },
  },
  {
    number: 15,
    what: 'mounts show no path of the host and propagate nowhere',
    async run({ probe, host, start }) {
      const text = await probe.ask<string>({ do: 'read', path: '/proc/self/mountinfo' });
      const mounts = parseMounts(text);
      assert.deepEqual(
        mounts.filter(({ tags }) => tags !== '').map(({ point }) => point),
        [],
      );
      const roots = mounts.map(({ root }) => root);
      assert.deepEqual([...new Set(roots)].toSorted(), ['/', '/masked/directory', '/masked/file']);
      assert.ok(!text.includes(host.stateDirectory), 'the state directory is named');
      // The host itself has mounts with paths below its state directory.
      assert.match(readFileSync(`/proc/${host.pid}/mountinfo`, 'utf8'), /\/run\/layers\//);
      const count = () => readFileSync('/proc/self/mountinfo', 'utf8').split('\n').length;
      const before = count();
      await start();
      assert.equal(count(), before);
    },
  },
  {
    number: 16,
    what: 'a mount made on the host later is not seen, nor the reverse',
    async run({ probe, host }) {
      const name = `hatch-${randomBytes(6).toString('hex')}`;
      const inside = () => probe.ask<string>({ do: 'read', path: '/proc/self/mountinfo' });
      const outsideText = () => readFileSync(`/proc/${host.pid}/mountinfo`, 'utf8');
      enterOk(host.pid, ['--mount'], ['mount', '-t', 'tmpfs', `${name}-host`, '/mnt']);
      try {
        assert.match(outsideText(), new RegExp(`${name}-host`));
        assert.doesNotMatch(await inside(), new RegExp(name));
        enterOk(probe.functionPid, ['--mount'], ['mount', '-t', 'tmpfs', `${name}-own`, '/mnt']);
        assert.match(await inside(), new RegExp(`${name}-own`));
        assert.doesNotMatch(outsideText(), new RegExp(`${name}-own`));
      } finally {
        enter(probe.functionPid, ['--mount'], ['umount', '/mnt']);
        enterOk(host.pid, ['--mount'], ['umount', '/mnt']);
      }
    },
  },
  {
    number: 17,
    what: 'the system directories of its root cannot be written to, and no layer ever is',
    async run({ probe, sibling }) {
      const codes = await probe.evaluate(() => {
        const { writeFileSync: write } = process.getBuiltinModule('node:fs');
        return ['/x', '/usr/x', '/etc/passwd', '/usr/local/bin/node', '/hatch/zygote.cjs'].map(
          (path) => {
            try {
              write(path, 'changed');
              return path;
            } catch (error) {
              return (error as NodeJS.ErrnoException).code;
            }
          },
        );
      });
      assert.deepEqual(codes, ['EACCES', 'EACCES', 'EACCES', 'EACCES', 'EACCES']);
      // With root's rights inside the write succeeds, in the writable layer of this instance.
      enterOk(probe.functionPid, containerRoot, ['sh', '-c', 'echo "# changed" >>/etc/passwd']);
      const read = (of: Probe) => of.ask<string>({ do: 'read', path: '/etc/passwd' });
      assert.match(await read(probe), /changed/);
      assert.doesNotMatch(await read(sibling), /changed/);
    },
  },
  {
    number: 18,
    what: 'no way of writing a path leads out of the root',
    async run({ probe }) {
      const directory = mkdtempSync(join(tmpdir(), 'hatch-canary-'));
      const file = join(directory, 'file');
      try {
        chmodSync(directory, 0o755);
        writeFileSync(file, 'canary', { mode: 0o644 });
        const up = '/..'.repeat(12);
        const starts = ['', up, `/proc/self/root${up}`, `/proc/self/cwd${up}`, `/proc/1/root${up}`];
        const pids = ['/proc/1/cwd', '/proc/self/task/../root', '/dev/fd/0/..', '/proc/self/fd/0'];
        const paths = [...starts, ...pids].map((start) => start + file);
        const codes = await probe.evaluate(
          (all) =>
            all.map((path) => {
              try {
                return process.getBuiltinModule('node:fs').readFileSync(path, 'utf8');
              } catch (error) {
                return (error as NodeJS.ErrnoException).code ?? '';
              }
            }),
          paths,
        );
        const expected = new Set(['ENOENT', 'EACCES', 'ENOTDIR']);
        assert.deepEqual(
          codes.filter((code) => !expected.has(code)),
          [],
        );
        const nobody = asUser(65_534, ['cat', ...starts.slice(0, 3).map((start) => start + file)]);
        assert.equal(nobody.stdout, 'canarycanarycanary');
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
  },
  {
    number: 19,
    what: 'the working directory is inside, and no descriptor leads elsewhere (CVE-2024-21626)',
    async run({ probe, host }) {
      const ways = await probe.evaluate(() => {
        const reached: string[] = [];
        for (let fd = 0; fd < 64; fd++)
          for (const tail of ['', '/..', '/../../..'])
            try {
              process.chdir(`/proc/self/fd/${fd}${tail}`);
              reached.push(`${fd}${tail}: ${process.cwd()}`);
            } catch {
              // As it should be.
            }
        process.chdir('/function');
        return { reached, directory: process.cwd() };
      });
      // From the directory of the descriptors itself ".." leads to that of the process.
      assert.deepEqual(
        ways.reached.filter((way) => !/: \/proc\/\d+$/.test(way)),
        [],
      );
      assert.equal(ways.directory, '/function');
      const executed = await probe.ask<RunResult>({
        do: 'run',
        command: ['/proc/self/fd/7/../../../bin/sh', '-c', 'pwd'],
      });
      assert.notEqual(executed.status, 0);
      await assert.rejects(host.deploy('test/functions/probe', { name: 'cwd', cwd: '/proc' }), {
        code: 'deploy.invalid',
      });
      await assert.rejects(
        host.deploy('test/functions/probe', { name: 'cwd', entry: '../../handler.ts' }),
        { code: 'deploy.invalid' },
      );
    },
  },
  {
    number: 20,
    what: 'no open descriptor is a directory, nor anything that leads to one',
    async run({ probe }) {
      const find = () => {
        const { readdirSync, openSync, closeSync } = process.getBuiltinModule('node:fs');
        const { O_DIRECTORY } = process.getBuiltinModule('node:fs').constants;
        const own = openSync('/tmp', O_DIRECTORY);
        const found: number[] = [];
        for (let fd = 0; fd < 256; fd++)
          try {
            const opened = openSync(`/proc/self/fd/${fd}`, O_DIRECTORY);
            readdirSync(`/proc/self/fd/${fd}/..`);
            closeSync(opened);
            found.push(fd);
          } catch {
            // None, or no directory.
          }
        closeSync(own);
        return { own, found };
      };
      const { own, found } = await probe.evaluate(find);
      // What it opens itself is found.
      assert.deepEqual(found, [own]);
      const script = 'exec 9</tmp; for fd in /proc/self/fd/*; do [ -d "$fd" ] && echo "$fd"; done';
      const { stdout } = await probe.ask<RunResult>({ do: 'run', command: ['sh', '-c', script] });
      assert.equal(stdout.trim(), '/proc/self/fd/9');
      const links = execFileSync('ls', ['-l', `/proc/${probe.initPid}/fd`]).toString();
      assert.doesNotMatch(links, / -> \/(?!(dev\/)?null|etc\/ssl)/);
    },
  },
];

function parseMounts(text: string): { root: string; point: string; tags: string }[] {
  return text
    .trim()
    .split('\n')
    .map((line) => {
      const [left = ''] = line.split(' - ');
      const [, , , root = '', point = '', , ...tags] = left.split(' ');
      return { root, point, tags: tags.join(' ') };
    });
}
