/** Landlock in force on every path: files out of reach even for who owns them. */
import assert from 'node:assert/strict';
import { chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { landlockAbi } from '../../host/sys/kernel-features.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import { enter, startProbe, uidBaseOf, type Probe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';

const paths = {
  parked: { config: { parked: 2 } },
  forked: { config: { parked: 0 } },
  booted: { config: { parked: 0, fork: 'never' } },
} as const;

assert.ok(landlockAbi() !== undefined, 'boot this kernel with landlock in lsm=');

for (const [path, options] of Object.entries(paths))
  describe(`on a ${path} instance`, () => {
    const getHost = hostForFile(options);

    test('what the function was not given is out of reach, owned or not', async () => {
      const probe = await startProbe(getHost(), 'files');
      assert.equal(probe.startPath, path);
      // A directory of its own, put into its root from outside: only Landlock refuses it.
      const owner = uidBaseOf(probe.functionPid) + 1000;
      const outside = `/proc/${probe.functionPid}/root/srv/own`;
      mkdirSync(outside, { recursive: true });
      chownSync(outside, owner, owner);
      writeFileSync(`${outside}/old`, 'old');
      chownSync(`${outside}/old`, owner, owner);
      assert.equal(await probe.ask({ do: 'read', path: '/srv/own/old' }), 'old');
      const asOwner = ['--user', '--mount', '--setuid', '1000', '--setgid', '1000'];
      const allowed = enter(probe.functionPid, asOwner, ['/bin/busybox', 'touch', '/srv/own/by']);
      assert.equal(allowed.status, 0, 'without Landlock its owner may');
      const refused = ['touch /srv/own/new', 'echo 1 > /srv/own/old', 'rm /srv/own/old'];
      for (const command of [...refused, 'mv /srv/own/old /tmp/old', 'mkdir /srv/own/more']) {
        const { status, stderr } = await shell(probe, command);
        assert.notEqual(status, 0, command);
        assert.match(stderr, /Permission denied/, command);
      }
    });

    test('what it was given, it can use as before', async () => {
      const probe = await startProbe(getHost(), 'given');
      for (const command of [
        'cd /tmp && echo 1 > a && mkdir b && mv a b/a && ln -s b c && rm -r b c && mkfifo d',
        'cd /dev/shm && echo 1 > a && rm a',
        'cd /home/function && mkdir a b && touch a/f && mv a/f b/f && ln b/f a/g',
        'echo 1 > /dev/null && head -c 1 /dev/zero > /dev/full || true',
        'cat /etc/passwd /proc/self/status > /dev/null',
      ]) {
        const { status, stderr } = await shell(probe, command);
        assert.equal(status, 0, `${command}: ${stderr}`);
      }
    });
  });

function shell(probe: Probe, command: string): Promise<RunResult> {
  return probe.ask<RunResult>({ do: 'run', command: ['/bin/busybox', 'sh', '-c', command] });
}
