/** A refused call is named in the log of who made it, on every path; the strict profile. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { seccompCallNumber } from '../../host/sys/seccomp.ts';
import type { RunResult, Secrets } from '../functions/probe/handler.ts';
import { startProbe, type Probe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import type { TestHost } from '../support/host.ts';

const architecture = process.arch === 'arm64' ? 'arm64' : 'x64';
const paths = {
  parked: { config: { parked: 2 } },
  forked: { config: { parked: 0 } },
  booted: { config: { parked: 0, fork: 'never' } },
} as const;

for (const [path, options] of Object.entries(paths))
  describe(`on a ${path} instance`, () => {
    const getHost = hostForFile(options);

    test('refused calls are named in its log, once each', async () => {
      const probe = await startProbe(getHost(), 'curious');
      assert.equal(probe.startPath, path);
      const names = ['ptrace', 'unshare', 'mount', 'keyctl', 'bpf', 'ptrace'];
      const outcomes = await makeCalls(probe, names);
      assert.deepEqual(new Set(outcomes), new Set(['EPERM']));
      assert.deepEqual(await refusedIn(getHost(), probe), [...new Set(names)]);
    });

    test('a strict function computes and has files, but no sockets and no processes', async () => {
      const probe = await startProbe(getHost(), 'strict', { seccomp: 'strict' });
      const { uuid } = await probe.ask<Secrets>({ do: 'secrets' });
      assert.equal(uuid.length, 36);
      await probe.ask({ do: 'write', path: '/tmp/file', text: 'text' });
      assert.equal(await probe.ask({ do: 'read', path: '/tmp/file' }), 'text');
      const { error } = await probe.ask<RunResult>({ do: 'run', command: ['/bin/busybox', 'id'] });
      assert.match(error ?? '', /EPERM/);
      const listened = await probe.ask({ do: 'listen', port: 8000, greeting: '' });
      assert.equal(listened, 'EPERM');
      const other = await startProbe(getHost(), 'node-profile');
      const { status } = await other.ask<RunResult>({ do: 'run', command: ['/bin/busybox', 'id'] });
      assert.equal(status, 0, 'the same function under the node profile');
    });
  });

describe('a function that floods the host with refused calls', () => {
  const getHost = hostForFile();

  test('waits, and the others do not', async () => {
    const host = getHost();
    const flood = await startProbe(host, 'flood');
    const other = await startProbe(host, 'other');
    const startMs = performance.now();
    const flooding = makeCalls(
      flood,
      Array.from({ length: 500 }, () => 'keyctl'),
    );
    await sleep(200);
    const otherMs = performance.now();
    await makeCalls(other, ['ptrace']);
    const tookMs = performance.now() - otherMs;
    const outcomes = await flooding;
    assert.deepEqual(new Set(outcomes), new Set(['EPERM']));
    // 400 of them, after the first 100, at 5 ms each.
    assert.ok(performance.now() - startMs > 2000);
    assert.ok(tookMs < 1000, `the other took ${tookMs} ms`);
    assert.deepEqual(await refusedIn(host, flood), ['keyctl']);
  });
});

async function makeCalls(probe: Probe, names: string[]): Promise<string[]> {
  const lines = names.map((name) => {
    const number = seccompCallNumber(name, architecture);
    assert.ok(number !== undefined, name);
    return `native ${number} 0 0 0 0 0 0\n`;
  });
  const command = ['/function/probe', 'calls'];
  const request = { do: 'run', command, input: lines.join('') } as const;
  const { stdout } = await probe.ask<RunResult>(request, { timeoutMs: 30_000 });
  return stdout
    .trim()
    .split('\n')
    .map((line) => line.split(' ').slice(2).join(' '));
}

async function refusedIn(host: TestHost, probe: Probe): Promise<string[]> {
  const records = await host.logs(probe.name);
  const texts = records.filter(({ stream }) => stream === 'stderr').map(({ text }) => text);
  return texts.flatMap((text) => /^Refused: the system call "(\w+)"/.exec(text)?.[1] ?? []);
}
