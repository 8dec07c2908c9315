import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CopyUp } from '../../../host/base/channels.ts';
import {
  adviceThresholds,
  adviseOn,
  isMetadataOnly,
} from '../../../host/telemetry/copy-up-advice.ts';

const MiB = 2 ** 20;
const { amplification, amplifiedBytesMin, bytesCopiedMin, manyFiles } = adviceThresholds;

const cases: [string, Partial<CopyUp>, string | undefined][] = [
  ['a few blocks of a large file', { bytesChanged: 4096 }, 'amplified'],
  ['just enough of it', { bytesChanged: (8 * MiB) / amplification }, 'amplified'],
  ['more than that', { bytesChanged: (8 * MiB) / amplification + 4096 }, undefined],
  ['half of it', { bytesChanged: 4 * MiB }, 'rewritten'],
  ['more than it had', { bytesChanged: 20 * MiB }, 'rewritten'],
  ['an unknown part of it', {}, 'amplified'],
  ['its mode', { bytesChanged: 0, attributesChanged: ['mode'] }, 'metadata'],
  ['its owner, as the system call says', { systemCall: 'fchownat' }, 'metadata'],
  ['its mode, and then its data', { systemCall: 'fchmodat', bytesChanged: 4096 }, 'amplified'],
  ['nothing', { bytesChanged: 0, attributesChanged: [] }, 'untouched'],
  ['all, and nothing was copied', { bytesCopied: 0, bytesChanged: 5 * MiB }, undefined],
  [
    'a block of a small file',
    { bytesCopied: amplifiedBytesMin - 1, bytesChanged: 4096 },
    undefined,
  ],
  [
    'the mode of a tiny file',
    { bytesCopied: bytesCopiedMin - 1, bytesChanged: 0, attributesChanged: ['mode'] },
    undefined,
  ],
];
for (const [what, change, reason] of cases)
  test(`${what} changed: ${reason ?? 'no advice'}`, () => {
    const copyUp: CopyUp = { path: '/function/data', bytesCopied: 8 * MiB, ...change };
    const [advice, ...others] = adviseOn([copyUp]);
    assert.equal(advice?.reason, reason);
    assert.deepEqual(others, []);
  });

test('files with the same advice share it, and what costs most comes first', () => {
  const mode = { bytesChanged: 0, attributesChanged: ['mode' as const] };
  const advice = adviseOn([
    { path: '/a', bytesCopied: MiB, ...mode },
    { path: '/b', bytesCopied: 2 * MiB, ...mode },
    { path: '/c', bytesCopied: 64 * MiB, bytesChanged: 1 },
  ]);
  assert.deepEqual(
    advice.map(({ reason, paths }) => [reason, paths]),
    [
      ['amplified', ['/c']],
      ['metadata', ['/b', '/a']],
    ],
  );
});

test('many small files of one directory are for a tmpfs', () => {
  const files = (count: number): CopyUp[] =>
    Array.from({ length: count }, (_, index) => {
      return { path: `/var/cache/${index}`, bytesCopied: 10_000, bytesChanged: 4096 };
    });
  assert.deepEqual(adviseOn(files(manyFiles - 1)), []);
  const [advice] = adviseOn(files(manyFiles));
  assert.equal(advice?.reason, 'many');
  assert.match(advice.text, /\/tmp, a tmpfs/);
});

test('calls that change no data are metadata', () => {
  const is = (systemCall: string): boolean =>
    isMetadataOnly({ path: '/a', bytesCopied: 1, systemCall });
  for (const call of ['chown', 'fchmodat', 'utimensat', 'futimesat', 'lsetxattr', 'renameat2'])
    assert.ok(is(call), call);
  for (const call of ['openat', 'truncate', 'open_by_handle_at', 'unlink', 'unlinkat'])
    assert.ok(!is(call), call);
});
