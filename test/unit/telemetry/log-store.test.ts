import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { LogStore } from '../../../host/telemetry/log-store.ts';
import { logRecord } from './records.ts';

describe('the log store', () => {
  test('finds by function and by request, oldest first, the newest so many', () => {
    const store = new LogStore({ bytesMax: 1_000_000 });
    for (let line = 0; line < 6; line++) {
      store.add(logRecord({ text: `${line}`, requestId: `r-${line % 2}` }));
    }
    store.add(logRecord({ functionName: 'other', text: 'x' }));
    const texts = (query: Parameters<LogStore['find']>[0]): string[] =>
      store.find(query).map(({ text }) => text);
    assert.deepEqual(texts({ functionName: 'hello' }), ['0', '1', '2', '3', '4', '5']);
    assert.deepEqual(texts({ functionName: 'hello', requestId: 'r-1' }), ['1', '3', '5']);
    assert.deepEqual(texts({ functionName: 'hello', requestId: 'r-1', limit: 2 }), ['3', '5']);
    assert.deepEqual(texts({ functionName: 'hello', limit: 0 }), []);
    assert.deepEqual(texts({ functionName: 'nobody' }), []);
  });

  test('never holds more than its bytes, and what it holds is the newest of each function', () => {
    const lines = fc.array(
      fc.record({ name: fc.constantFrom('a', 'b', 'c'), length: fc.nat({ max: 900 }) }),
      { maxLength: 300 },
    );
    fc.assert(
      fc.property(lines, (written) => {
        const bytesMax = 8000;
        const store = new LogStore({ bytesMax });
        const records = written.map(({ name, length }) =>
          logRecord({ functionName: name, text: 'x'.repeat(length) }),
        );
        for (const record of records) {
          store.add(record);
          assert.ok(store.bytes <= bytesMax);
        }
        for (const functionName of ['a', 'b', 'c']) {
          const kept = store.find({ functionName });
          const all = records.filter((record) => record.functionName === functionName);
          assert.deepEqual(kept, all.slice(all.length - kept.length));
        }
      }),
      { numRuns: 50 },
    );
  });

  test('lets a noisy function push out its own output, not that of a quiet one', () => {
    const store = new LogStore({ bytesMax: 100_000 });
    store.add(logRecord({ functionName: 'quiet', text: 'still here' }));
    for (let line = 0; line < 20_000; line++) {
      store.add(logRecord({ functionName: 'noisy', text: `line ${line}` }));
    }
    assert.equal(store.find({ functionName: 'quiet' }).length, 1);
    const noisy = store.find({ functionName: 'noisy' });
    assert.equal(noisy.at(-1)?.text, 'line 19999');
    assert.ok(noisy.length > 300 && noisy.length < 400, `${noisy.length} lines kept`);
  });

  test('cuts a long line and says so, without splitting a character', () => {
    const store = new LogStore({ bytesMax: 1_000_000, lineLengthMax: 10 });
    const { text } = store.add(logRecord({ text: `short\n${'y'.repeat(25)}\n123456789🙂z\n` }));
    assert.equal(
      text,
      'short\nyyyyyyyyyy… [15 more characters cut]\n123456789… [3 more characters cut]\n',
    );
    const untouched = logRecord({ text: '0123456789' });
    assert.equal(store.add(untouched), untouched);
  });

  test('cuts a text of many lines so that it fits into a message', () => {
    const store = new LogStore({ bytesMax: 1e6, lineLengthMax: 10, textLengthMax: 30 });
    const { text } = store.add(logRecord({ text: 'line\n'.repeat(100) }));
    assert.equal(text, `${'line\n'.repeat(6)}… [470 more characters cut]`);
  });
});
