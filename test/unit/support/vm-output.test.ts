import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { archive } from '../../../ops/vm/initramfs.ts';
import { SummaryFilter } from '../../../ops/vm/summary.ts';

test('the closing lines of a run are taken out of its output, wherever it is cut', () => {
  let shown = '';
  const filter = new SummaryFilter((text) => (shown += text));
  for (const text of [
    '✔ one\n# pa',
    'ss 12\n# fail 0\n',
    '# a comment 3\nend\n',
    '# duration_ms 5\n',
  ])
    filter.push(text);
  assert.equal(shown, '✔ one\n# a comment 3\nend\n');
  assert.deepEqual(
    [...filter.counts],
    [
      ['pass', 12],
      ['fail', 0],
      ['duration_ms', 5],
    ],
  );
});

test('what goes into the initramfs comes out of it', () => {
  const entries = [
    { path: 'directory', mode: 0o040755, content: Buffer.alloc(0) },
    { path: 'directory/file', mode: 0o100640, content: Buffer.from('seven..') },
    { path: 'empty', mode: 0o100755, content: Buffer.alloc(0) },
  ];
  const listing = execFileSync('busybox', ['cpio', '-tv'], {
    input: archive(entries),
    encoding: 'utf8',
  });
  const lines = listing
    .trim()
    .split('\n')
    .map((line) => line.split(/\s+/));
  assert.deepEqual(
    lines.map(([mode, , size]) => [mode, size]),
    [
      ['drwxr-xr-x', '0'],
      ['-rw-r-----', '7'],
      ['-rwxr-xr-x', '0'],
    ],
  );
  assert.deepEqual(
    lines.map((words) => words.at(-1)),
    entries.map(({ path }) => path),
  );
});
