/** Checks 21 to 30: programs, devices, owners, and what the engine mounts. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, chownSync, copyFileSync, createReadStream, statSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { setAttributeOfPath } from '../../host/sys/file.ts';
import type { ProbeRequest, RunResult } from '../functions/probe/handler.ts';
import { enter, enterOk, uidBaseOf, type Probe } from '../support/containers.ts';
import { assertRefused, callsInside, outside, type Check } from './check.ts';
import { deployLayer, type LayerEntry } from './hostile-layer.ts';
import { volumeCheck } from './volumes.ts';

const containerRoot = ['--user', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];
const nothing = { real: 1000, effective: 1000, saved: 1000 };
/** security.capability, version 2 of <linux/capability.h>, effective: cap_sys_admin and so on. */
const allCapabilities = Buffer.from('01000002ffffffff00000000ff01000000000000', 'hex');

export const fileChecks: readonly Check[] = [
  {
    number: 21,
    what: 'the program it runs cannot be written to, while it runs or after (CVE-2019-5736)',
    async run({ probe, start }) {
      const own = await start();
      const before = await hashOf(`/proc/${probe.functionPid}/exe`);
      const attempts = () => {
        const { openSync, constants, closeSync } = process.getBuiltinModule('node:fs');
        const held = openSync('/proc/self/exe', 0o10000000);
        const ways = ['/proc/self/exe', `/proc/self/fd/${held}`, '/usr/local/bin/node'];
        return ways.flatMap((path) =>
          [constants.O_WRONLY, constants.O_RDWR | constants.O_APPEND].map((flags) => {
            try {
              closeSync(openSync(path, flags));
              return path;
            } catch (error) {
              return (error as NodeJS.ErrnoException).code ?? '';
            }
          }),
        );
      };
      for (const code of await own.evaluate(attempts))
        assert.match(code, /^(EACCES|EROFS|ETXTBSY)$/);
      // The root of the container, which owns the file there, is refused by the mount.
      const exe = `/proc/${own.functionPid}/exe`;
      const script = `exec 3<>/proc/$PPID/exe && echo opened; echo x >${exe}; echo x >/proc/2/exe`;
      const tried = enter(own.functionPid, containerRoot, ['sh', '-c', script]);
      assert.doesNotMatch(tried.stdout, /opened/);
      assert.equal(await hashOf(`/proc/${probe.functionPid}/exe`), before);
      // What is its own it may write, and execute.
      const copy = 'cp /bin/busybox /tmp/busybox && echo x >>/tmp/busybox && /tmp/busybox true';
      const { status } = await own.ask<RunResult>({ do: 'run', command: ['sh', '-c', copy] });
      assert.equal(status, 0);
    },
  },
  {
    number: 22,
    what: 'set-user-id programs and files with capabilities give nothing',
    async run({ probe }) {
      const base = uidBaseOf(probe.functionPid);
      const install = (name: string) => {
        const path = `/proc/${probe.functionPid}/root/home/function/${name}`;
        copyFileSync(`/proc/${probe.functionPid}/root/function/probe`, path);
        chownSync(path, base, base);
        return path;
      };
      chmodSync(install('set-user-id'), 0o4755);
      const capable = install('capable');
      chmodSync(capable, 0o755);
      setAttributeOfPath(capable, 'security.capability', allCapabilities);
      for (const name of ['set-user-id', 'capable']) {
        const command = [`/home/function/${name}`, 'identity'];
        const result = await probe.ask<RunResult>({ do: 'run', command });
        // The kernel may refuse to run one whose capabilities it cannot give.
        if (result.status === 0) assert.deepEqual(JSON.parse(result.stdout), nothing);
        else assert.equal(`${name} ${result.error}`, `capable spawnSync ${command[0]} EPERM`);
      }
      // The same file on a mount that honours it, run by one without no_new_privs.
      const options = ['--user', '--mount', '--setuid', '1000', '--setgid', '1000'];
      enterOk(
        probe.functionPid,
        ['--mount', '--pid'],
        ['mount', '-o', 'remount,suid,bind', '/tmp'],
      );
      const open = `/proc/${probe.functionPid}/root/tmp/set-user-id`;
      copyFileSync(`/proc/${probe.functionPid}/root/function/probe`, open);
      chownSync(open, base, base);
      chmodSync(open, 0o4755);
      const gained = enterOk(probe.functionPid, options, ['/tmp/set-user-id', 'identity']);
      enterOk(
        probe.functionPid,
        ['--mount', '--pid'],
        ['mount', '-o', 'remount,nosuid,bind', '/tmp'],
      );
      assert.deepEqual(JSON.parse(gained), { ...nothing, effective: 0, saved: 0 });
    },
  },
  {
    number: 23,
    what: 'no device can be made, and one that is there cannot be opened',
    async run({ probe, program }) {
      await assertDevicesRefused(probe, program);
      for (const place of ['/tmp', '/home/function', '/dev/shm']) {
        const path = `${place}/zero`;
        enterOk(probe.functionPid, ['--mount'], ['mknod', '-m', '666', path, 'c', '1', '5']);
        const reading = probe.ask({ do: 'read', path });
        await assert.rejects(reading, /EACCES/, path);
        enterOk(probe.functionPid, ['--mount'], ['rm', path]);
      }
      // The same device where devices are meant to be.
      const read = ['sh', '-c', 'head -c 4 /dev/zero | wc -c'];
      const { stdout } = await probe.ask<RunResult>({ do: 'run', command: read });
      assert.equal(stdout.trim(), '4');
    },
  },
  {
    number: 24,
    what: "overlayfs's own attributes cannot be set, and those of users mean nothing to it",
    async run({ probe, program }) {
      const attribute = (who: string[], name: string) =>
        enter(probe.functionPid, who, ['/function/probe', 'set-attribute', '/home/function', name]);
      for (const name of ['trusted.overlay.opaque', 'trusted.overlay.redirect'])
        assert.notEqual(attribute(containerRoot, name).status, 0, name);
      const list = () =>
        probe.evaluate(() => {
          return process.getBuiltinModule('node:fs').readdirSync('/usr/local');
        });
      const before = await list();
      const set = ['/function/probe', 'set-attribute', '/usr/local', 'user.overlay.opaque'];
      const attempt = enter(probe.functionPid, containerRoot, set);
      // A tmpfs, which the writable layer is on, has had attributes of users since Linux 6.6.
      if (attempt.status !== 0) {
        const onTmpfs = `mount -t tmpfs none /mnt && ${program} set-attribute /mnt user.hatch`;
        assert.equal(
          outside(['sh', '-c', onTmpfs]).stderr,
          'user.hatch: Operation not supported\n',
        );
        assert.match(attempt.stderr, /Operation not supported/);
      }
      assert.deepEqual(await list(), before);
      assert.ok(before.length > 0);
      const { stdout } = await probe.ask<RunResult>({
        do: 'run',
        command: ['cat', '/proc/mounts'],
      });
      assert.doesNotMatch(stdout, /userxattr|redirect_dir=on|metacopy=on/);
      // Without the user namespace, root of the host may.
      const path = `/proc/${probe.functionPid}/root/tmp`;
      execFileSync(program, ['set-attribute', path, 'trusted.hatch']);
    },
  },
  {
    number: 25,
    what: "a sibling's files and the layer store are nowhere to be found",
    async run({ probe, sibling, host }) {
      await sibling.ask({ do: 'write', path: '/tmp/canary-of-a-sibling', text: 'x' });
      await sibling.ask({ do: 'write', path: '/home/function/canary-of-a-sibling', text: 'x' });
      const script = 'find / -xdev -name "canary*" 2>/dev/null; find /tmp /dev -name "canary*"';
      const run: ProbeRequest = { do: 'run', command: ['sh', '-c', script] };
      assert.equal((await probe.ask<RunResult>(run)).stdout, '');
      assert.match((await sibling.ask<RunResult>(run)).stdout, /canary-of-a-sibling/);
      for (const path of [host.stateDirectory, '/var/lib/hatchery', '/run/layers'])
        await assert.rejects(probe.ask({ do: 'stat', path }), /ENOENT/, path);
      assert.equal(statSync(host.stateDirectory).mode & 0o077, 0);
    },
  },
  volumeCheck,
  {
    number: 27,
    what: 'a layer whose /dev, /proc or /tmp is a link or a file starts nothing, and harms nobody',
    async run({ host }) {
      const links = ['dev', 'proc', 'tmp'].map((name): LayerEntry => {
        return { name, type: 'symlink', linkname: '/etc' };
      });
      const files = [{ name: 'dev', text: 'no directory' }];
      for (const [at, entry] of [...links, ...files].entries()) {
        const deploying = deployLayer(host, `layer-${at}`, [entry]);
        await assert.rejects(
          deploying,
          /ELOOP|ENOTDIR|EXDEV|symlink|directory|Function exited/i,
          entry.name,
        );
      }
      await deployLayer(host, 'layer-good', [{ name: 'srv/x', text: 'harmless' }]);
    },
  },
  {
    number: 28,
    what: 'what is masked is empty, read-only, and cannot be uncovered',
    async run({ probe }) {
      const masks = await masksOf(probe);
      assert.ok(masks.length >= 10, masks.join(' '));
      const codes = await probe.evaluate((paths) => {
        const fs = process.getBuiltinModule('node:fs');
        const attempt = (act: () => unknown) => {
          try {
            return act();
          } catch (error) {
            return (error as NodeJS.ErrnoException).code;
          }
        };
        return paths.map((path) => {
          const isDirectory = fs.statSync(path).isDirectory();
          const content = attempt(() =>
            isDirectory ? fs.readdirSync(path).length : fs.readFileSync(path).length,
          );
          const target = isDirectory ? `${path}/x` : path;
          const codes = [
            attempt(() => fs.writeFileSync(target, '1')),
            attempt(() => (isDirectory ? fs.rmdirSync(path) : fs.unlinkSync(path))),
          ];
          return { content, codes };
        });
      }, masks);
      for (const [at, { content, codes: refused }] of codes.entries()) {
        // Where AppArmor is active it refuses to open some.
        assert.ok(content === 0 || content === 'EACCES', `${masks[at]}: ${String(content)}`);
        for (const code of refused) assert.match(String(code), /^(EROFS|EACCES|EPERM|EBUSY)$/);
      }
      for (const path of masks)
        assert.notEqual(enter(probe.functionPid, containerRoot, ['umount', path]).status, 0);
    },
  },
  {
    number: 29,
    what: 'each mask is mounted once, and all of them share one file system',
    async run({ probe, sibling, host }) {
      const masks = await masksOf(probe);
      assert.ok(masks.length > 1);
      const points = (await mountsOf(probe)).map(({ point }) => point);
      // No place is mounted on twice, masked or not.
      assert.equal(new Set(points).size, points.length);
      const devices = new Set(
        (await mountsOf(probe)).filter(({ point }) => masks.includes(point)).map((m) => m.device),
      );
      assert.equal(devices.size, 1);
      // It can't be written to by anybody, so it is no way to another container either.
      const [mask = ''] = masks;
      assert.deepEqual(await masksOf(sibling), masks);
      const written = enter(probe.functionPid, containerRoot, ['sh', '-c', `echo x >${mask}`]);
      assert.notEqual(written.status, 0);
      const more = { name: 'masks', maskedPaths: ['/proc/kcore', '/proc/kcore'] };
      const deploying = host.deploy('test/functions/probe', more);
      await assert.rejects(deploying, { code: 'deploy.invalid' });
    },
  },
  {
    number: 30,
    what: "a layer's file is root's inside, keeps its owner outside, and changes in a copy only",
    async run({ probe, sibling }) {
      const path = '/etc/group';
      const owner = (of: Probe) => of.ask<{ uid: number }>({ do: 'stat', path });
      assert.equal((await owner(probe)).uid, 0);
      enterOk(probe.functionPid, containerRoot, ['chown', '1000', path]);
      assert.equal((await owner(probe)).uid, 1000);
      assert.equal((await owner(sibling)).uid, 0);
      const outside = statSync(`/proc/${probe.functionPid}/root${path}`).uid;
      assert.equal(outside, uidBaseOf(probe.functionPid) + 1000);
    },
  },
];

async function assertDevicesRefused(probe: Probe, program: string): Promise<void> {
  const characterDevice = 0o020_666;
  const blockDevice = 0o060_666;
  const calls = [
    ['mknodat', -1, 1, characterDevice, 0x101],
    ['mknodat', -1, 1, blockDevice, 0x800],
  ] as const;
  await assertRefused({ probe, program }, calls);
  // A pipe by name is nobody's business.
  const [pipe] = Object.values(await callsInside(probe, [['mknodat', -1, 1, 0o010_666, 0]]));
  assert.notEqual(pipe, 'EPERM');
}

async function masksOf(probe: Probe): Promise<string[]> {
  const points = (await mountsOf(probe)).map(({ point }) => point);
  return points.filter((point) => point.startsWith('/proc/'));
}

async function mountsOf(probe: Probe): Promise<{ device: string; point: string }[]> {
  const text = await probe.ask<string>({ do: 'read', path: '/proc/self/mountinfo' });
  return text
    .trim()
    .split('\n')
    .map((line) => line.split(' '))
    .map(([, , device = '', , point = '']) => ({ device, point }));
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}
