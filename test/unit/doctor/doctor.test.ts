import assert from 'node:assert/strict';
import { test } from 'node:test';
import { copyUpChecks, isolationChecks, limits, outOfMemory } from '../../../host/doctor.ts';
import { CopyUpAccount } from '../../../host/telemetry/copy-up-account.ts';
import type { CopyUp } from '../../../host/base/channels.ts';
import { isolationHere } from '../../../host/security/isolation.ts';

test('limits that cannot be set here are named', () => {
  const all = { cpuBurst: true, memoryHigh: true, io: true, ioBuffered: true };
  assert.equal(limits(all).status, 'ok');
  const { status, detail } = limits({ ...all, memoryHigh: false });
  assert.equal(status, 'warn');
  assert.match(detail, /but not memoryHighMb \(cgroup v2\)$/);
  const onV1 = limits({ ...all, ioBuffered: false });
  assert.equal(onV1.status, 'warn');
  assert.match(onV1.detail, /but not io of writes that nobody waits for \(cgroup v2\)$/);
});

test('each layer of isolation has a line', () => {
  const isolation = { ...isolationHere(), selinux: 'unavailable: not active' } as const;
  const checks = isolationChecks(isolation);
  const find = (name: string) => checks.find((check) => check.name === `layer ${name}`);
  assert.equal(checks.length, Object.keys(isolation).length);
  assert.deepEqual([find('seccomp')?.status, find('selinux')?.status], ['ok', 'warn']);
  assert.match(find('seccomp')?.detail ?? '', /^enforced: /);
});

test('a host that may not protect itself says so', () => {
  assert.equal(outOfMemory(-900).status, 'ok');
  assert.equal(outOfMemory(-1000).status, 'ok');
  const { status, detail } = outOfMemory(0);
  assert.equal(status, 'warn');
  assert.match(detail, /score of 0: it needs CAP_SYS_RESOURCE/);
});

test('functions whose copy-ups could be avoided are named, with what to do', () => {
  const account = new CopyUpAccount();
  assert.deepEqual(
    copyUpChecks(account.functions()).map(({ status }) => status),
    ['ok'],
  );
  const copyUps: CopyUp[] = [
    { path: '/function/ledger.db', bytesCopied: 8 << 20, bytesChanged: 8192 },
    { path: '/function/small', bytesCopied: 100, bytesChanged: 100 },
  ];
  account.add({ functionName: 'ledger', copyUps });
  account.add({ functionName: 'ledger', copyUps });
  const [check, ...others] = copyUpChecks(account.functions());
  assert.deepEqual(others, []);
  assert.equal(check?.name, 'copy-ups of ledger');
  assert.match(check.detail, /^16\.0 MiB in 2 calls: \/function\/ledger\.db: .*"btrfs"/);
});
