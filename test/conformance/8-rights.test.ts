/** What a function may ask of the kernel, call by call; and that it has no other rights. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { compileProfile } from '../../host/security/security.ts';
import { seccompCallNumber } from '../../host/sys/seccomp.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import { startProbe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import { assertAllowedCalls, assertForeignCallsKill, tryCalls } from '../support/system-calls.ts';

const getHost = hostForFile();
test('8.1 the calls allowed inside are those of the profile, of all numbers to 600', async () => {
  await assertAllowedCalls(await startProbe(getHost(), 'calls', { pidsMax: 256 }));
});

test('8.1 every call by x32 and int 0x80 kills its process, of all numbers to 600', async () => {
  await assertForeignCallsKill(await startProbe(getHost(), 'foreign'));
});

const empty = '0000000000000000';
const nothing = {
  CapInh: empty,
  CapPrm: empty,
  CapEff: empty,
  CapBnd: empty,
  CapAmb: empty,
  NoNewPrivs: '1',
  Seccomp: '2',
};

test('8.2 PID 1, the function and what it executes have no capability in any set', async () => {
  const probe = await startProbe(getHost(), 'capabilities');
  const statuses = {
    'PID 1, seen inside': await probe.ask<string>({ do: 'read', path: '/proc/1/status' }),
    'the function, seen inside': await probe.ask<string>({ do: 'read', path: '/proc/self/status' }),
    'an executed child': (
      await probe.ask<RunResult>({ do: 'run', command: ['cat', '/proc/self/status'] })
    ).stdout,
    'PID 1, seen outside': readFileSync(`/proc/${probe.initPid}/status`, 'utf8'),
    'the function, seen outside': readFileSync(`/proc/${probe.functionPid}/status`, 'utf8'),
  };
  for (const [who, status] of Object.entries(statuses)) {
    const found = Object.keys(nothing).map((key) => [
      key,
      new RegExp(`^${key}:\\t(.*)$`, 'm').exec(status)?.[1],
    ]);
    assert.deepEqual(Object.fromEntries(found), nothing, who);
  }
});

test('8.2 what CAP_SYS_ADMIN and CAP_SYS_MODULE would allow is refused', async () => {
  const probe = await startProbe(getHost(), 'admin');
  const { architecture } = compileProfile('node');
  const names = ['mount', 'umount2', 'pivot_root', 'unshare', 'setns', 'sethostname', 'bpf'];
  const modules = ['init_module', 'finit_module', 'delete_module', 'kexec_load', 'capset'];
  const calls = [...names, ...modules].flatMap((name) => {
    const number = seccompCallNumber(name, architecture);
    return number === undefined ? [] : [{ number, arguments: [0n, 0n, 0n, 0n, 0n, 0n] }];
  });
  const outcomes = await tryCalls(probe, 'native', calls);
  assert.deepEqual(new Set(outcomes), new Set(['EPERM']));
});
