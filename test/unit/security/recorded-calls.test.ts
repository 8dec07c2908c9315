/** The profiles beside what a broad workload really called: `npm run record-syscalls`. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import {
  compareRecorded,
  complaintsOf,
  profiles,
  readTrace,
  type RecordedCalls,
} from '../../support/recorded-calls.ts';
import { expectedRefusals, reasonsToStay } from '../../support/unseen-calls.ts';

const file = join(import.meta.dirname, '../../support/recorded-calls.json');
const recorded = JSON.parse(readFileSync(file, 'utf8')) as RecordedCalls;

for (const profile of ['node', 'strict'] as const) {
  const calls = recorded.profiles[profile];

  test(`what the ${profile} profile and the recording differ in has a reason`, () => {
    assert.ok(Object.keys(calls).length > 50, 'the recording is not empty');
    assert.deepEqual(complaintsOf(profile, calls), []);
  });

  test(`each refusal that is expected of the ${profile} profile is recorded`, () => {
    const { refused } = compareRecorded(profile, calls);
    const names = refused.map(({ call }) => call).toSorted();
    assert.deepEqual(names, Object.keys(expectedRefusals[profile]).toSorted());
  });
}

// Not the other way round: some calls are made in one run and not in the next, as threads meet.
test('each call that has a reason to stay is allowed', () => {
  const { allowed, conditional } = profiles.node;
  for (const call of reasonsToStay.keys())
    assert.ok(call in allowed || conditional.some((rule) => rule.call === call), call);
});

test('each line of a profile has its reason', () => {
  for (const { allowed, conditional, denied, absent } of Object.values(profiles)) {
    const listed = [...Object.entries(allowed), ...Object.entries(denied)];
    for (const [call, reason] of [...listed, ...Object.entries(absent)])
      assert.notEqual(reason.trim(), '', call);
    for (const { call, reason } of conditional) assert.notEqual(reason.trim(), '', call);
  }
});

describe('a trace', () => {
  const trace = [
    '10 mount("a", "b", "c", 0, NULL) = 0',
    '10 seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=3}) = 0',
    '10 write(1, "files\\n", 6) = 6',
    '10 openat(AT_FDCWD, "a, b(", O_RDONLY <unfinished ...>',
    '11 ioctl(0x3, 0x5401, 0x7ffc) = 0',
    '10 <... openat resumed>) = 3',
    '10 --- SIGCHLD {si_signo=SIGCHLD} ---',
    '10 write(1, "sockets\\n", 8) = 8',
    '10 socket(0x26, 0x5, 0) = -1 EPERM (Operation not permitted)',
    '11 ioctl(0x4, 0x5412, 0x7ffd <unfinished ...>',
    '10 +++ exited with 0 +++',
  ].join('\n');
  const calls = readTrace(trace, ['files', 'sockets']);

  test('is read from the filter on, by parts of the workload', () => {
    assert.deepEqual(calls, {
      ioctl: {
        parts: ['files', 'sockets'],
        arguments: [
          ['0', '0x5401'],
          ['0', '0x5412'],
        ],
      },
      openat: { parts: ['files'] },
      socket: { parts: ['sockets'], arguments: [['0x26', '0x5', '0']] },
      write: { parts: ['files', 'sockets'] },
    });
  });

  test('with a refusal that nobody expects is complained of', () => {
    const [socket, terminal] = complaintsOf('node', calls);
    assert.match(socket ?? '', /ioctl 0 0x5412 is made, and answered with EPERM/);
    assert.match(terminal ?? '', /socket 0x26 0x5 0 is made/);
    const other = complaintsOf('node', { ...calls, mount: { parts: ['files'] } });
    assert.ok(other.some((line) => line.startsWith('node: mount is made')));
  });

  test('without a call that only old reasons keep allowed is complained of', () => {
    const { openat: _, ...rest } = recorded.profiles.node;
    assert.deepEqual(complaintsOf('node', rest), ['node: openat is allowed, and nobody makes it']);
  });
});
