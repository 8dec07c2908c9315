import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import type { CopyUp } from '../../../host/base/channels.ts';
import { renderTrace } from '../../../host/telemetry/waterfall.ts';
import { callRecord, hotCall, startRecord } from './records.ts';

const us = 1000;

function drawing(lines: string): string {
  return `${lines.trim().replaceAll(/^ {4}/gm, '')}\n`;
}

describe('the waterfall of a call', () => {
  test('shows a forked start step by step, to scale', () => {
    assert.equal(
      renderTrace(callRecord(), { columns: 79 }),
      drawing(`
    ledger@3  forked start in 2.00 ms  4.00 ms  ok
    request r-1 · instance i-7f3a9c · hatch.fn.ledger · 58 B in, 2.00 KiB out

                           ╷0                  ╷2.00 ms            ╷4.00 ms
    hatch.invoke           ████████████████████████████████████████   4.00 ms 100 %
    ├─ hatch.queue         █████                                       500 µs  13 %
    ├─ hatch.start forked       ████████████████████                  2.00 ms  50 %
    │  ├─ fork                  ██████████                            1.00 ms  25 %
    │  ├─ rootfs                          ████                         400 µs  10 %
    │  └─ load                                ██████                   600 µs  15 %
    └─ hatch.handler                                ███████████████   1.50 ms  38 %
    `),
    );
  });

  test('says how much was read ahead of a start', () => {
    const shown = renderTrace(callRecord({ startRecord: startRecord({ readAheadBytes: 8192 }) }));
    assert.match(shown, / out · 8\.00 KiB read ahead\n/);
  });

  test('shows a hot call without a start', () => {
    assert.equal(
      renderTrace(hotCall({ replyBytes: 0 }), { columns: 74 }),
      drawing(`
    ledger@3  hot  4.00 ms  ok
    request r-1 · instance i-7f3a9c · hatch.fn.ledger · 58 B in, 0 B out

                      ╷0                  ╷2.00 ms            ╷4.00 ms
    hatch.invoke      ████████████████████████████████████████   4.00 ms 100 %
    ├─ hatch.queue    ██████████                                 1.00 ms  25 %
    └─ hatch.handler            ██████████████████████████████   3.00 ms  75 %
    `),
    );
  });

  test('lists copy-ups, largest first, with their sum and what to do', () => {
    const copyUps: CopyUp[] = [
      { path: '/etc/motd', bytesCopied: 0, bytesChanged: 0, attributesChanged: [] },
      {
        path: '/function/ledger.db',
        bytesCopied: 8 * 1024 * 1024,
        bytesChanged: 8192,
        attributesChanged: ['times'],
        durationNs: 2_410_000,
        systemCall: 'openat',
      },
      { path: '/function/run.sh', bytesCopied: 512, bytesChanged: 0, attributesChanged: ['mode'] },
    ];
    assert.ok(
      renderTrace(hotCall({ copyUps })).endsWith(
        [
          '',
          'overlay.copy_up: 8.00 MiB copied for the first write to 3 files in 2.41 ms',
          '  8.00 MiB  8.00 KiB changed  ×1024  2.41 ms  openat  /function/ledger.db',
          '     512 B      mode changed                          /function/run.sh',
          '       0 B   nothing changed                          /etc/motd',
          '  → /function/ledger.db (8.00 MiB): the first write copied all of it: a driver that ' +
            'shares blocks',
          '    copies only what is written ("storage": "btrfs" or "zfs"); or keep what changes ' +
            'in a file of its',
          '    own',
          '',
        ].join('\n'),
      ),
    );
  });

  test('shows the ten largest of many copy-ups and counts the rest', () => {
    const copyUps = Array.from({ length: 13 }, (_, index) => {
      return { path: `/f/${index}`, bytesCopied: index * 1024 };
    });
    const text = renderTrace(hotCall({ copyUps }));
    assert.match(text, /12\.0 KiB {2}\/f\/12\n/);
    assert.doesNotMatch(text, /\/f\/2\n/);
    assert.match(text, / {2}and 3 more\n$/);
  });

  test('shows the error, and a call that never reached an instance', () => {
    const error = { code: 'host.busy', message: 'Function "ledger" is busy\nTry later' } as const;
    const text = renderTrace(
      hotCall({ error, start: undefined, instanceId: undefined, dispatchedNs: undefined }),
    );
    assert.match(text, /^ledger@3 {2}never started {2}4\.00 ms {2}host\.busy\n/);
    assert.match(text, /└─ hatch\.queue +█+ +4\.00 ms 100 %\n/);
    assert.doesNotMatch(text, /hatch\.handler|instance/);
    assert.match(text, /\n\nhost\.busy: Function "ledger" is busy\n {2}Try later\n$/);
  });

  test('tells what was done ahead of the call from what the call waited for', () => {
    const steps = [
      { name: 'fork', startNs: -9000 * us, endNs: -8000 * us },
      { name: 'namespaces', startNs: -8000 * us, endNs: -7750 * us },
      { name: 'load', startNs: 600 * us, endNs: 2500 * us },
    ];
    const text = renderTrace(
      callRecord({ start: 'parked', startRecord: startRecord({ path: 'parked', steps }) }),
    );
    assert.match(text, /├─ hatch\.start parked.*\n│ {2}└─ load /);
    assert.match(
      text,
      /\n\nDone ahead of the call: 1\.25 ms\n {2}fork +1\.00 ms\n {2}namespaces +250 µs\n$/,
    );
  });

  test('draws a bar for what is too short to see', () => {
    const text = renderTrace(hotCall({ dispatchedNs: 10, endNs: 1_000_000_000 }), { columns: 80 });
    assert.match(text, /├─ hatch\.queue {4}▏ +10 ns +0 %\n/);
  });

  test('survives a record whose times are all the same', () => {
    const text = renderTrace(hotCall({ receivedNs: 5, dispatchedNs: 5, endNs: 5 }));
    assert.match(text, /hatch\.invoke .* 0 ns/);
  });

  for (const columns of [20, 60, 80, 100, 160, 400]) {
    test(`keeps to ${columns} columns, and its columns aligned`, () => {
      const rows = renderTrace(callRecord(), { columns })
        .split('\n')
        .filter((line) => line.includes('hatch.') && line.endsWith('%'));
      const widths = new Set(rows.map((line) => line.length));
      assert.equal(rows.length, 4);
      assert.equal(widths.size, 1);
      assert.ok([...widths].every((width) => width <= Math.max(60, columns)));
    });
  }

  test('is the same with colors, once they are stripped', () => {
    const colored = renderTrace(callRecord(), { columns: 90, colors: true });
    assert.ok(colored.includes('\u001B[36m'));
    assert.equal(stripVTControlCharacters(colored), renderTrace(callRecord(), { columns: 90 }));
  });

  test('does not let a function steer the terminal', () => {
    const text = renderTrace(
      hotCall({
        copyUps: [{ path: '/tmp/\u001B[2J\r\nok', bytesCopied: 1 }],
        error: { code: 'function.threw', message: '\u001B]0;title\u0007' },
      }),
    );
    for (const character of ['\u001B', '\u0007', '\r']) assert.ok(!text.includes(character));
  });
});
