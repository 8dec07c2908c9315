import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { TraceStore } from '../../../host/telemetry/trace-store.ts';
import { hotCall } from './records.ts';

describe('the trace store', () => {
  test('finds a call by its request id, as the same object', () => {
    const store = new TraceStore({ countMax: 10 });
    const record = hotCall({ requestId: 'r-7' });
    store.add(record);
    assert.equal(store.find('r-7'), record);
    assert.equal(store.find('r-8'), undefined);
  });

  test('keeps the latest calls, in any order of ids', () => {
    const ids = fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 60 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), ids, (countMax, requests) => {
        const store = new TraceStore({ countMax });
        const records = requests.map((id) => hotCall({ requestId: `r-${id}` }));
        for (const record of records) store.add(record);
        const kept = records.slice(-countMax);
        assert.equal(store.count, kept.length);
        assert.deepEqual(store.newest(100), kept.toReversed());
        for (let id = 0; id <= 20; id++) {
          const latest = kept.findLast((record) => record.requestId === `r-${id}`);
          assert.equal(store.find(`r-${id}`), latest);
        }
      }),
    );
  });

  test('is bounded in bytes too, and keeps at least the latest call', () => {
    const store = new TraceStore({ countMax: 1000, bytesMax: 100_000 });
    const copyUps = [{ path: `/${'x'.repeat(10_000)}`, bytesCopied: 1 }];
    for (let call = 0; call < 50; call++) store.add(hotCall({ requestId: `r-${call}`, copyUps }));
    assert.equal(store.count, 4);
    assert.equal(store.find('r-45'), undefined);
    assert.ok(store.find('r-46'));

    const path = `/${'x'.repeat(200_000)}`;
    store.add(hotCall({ requestId: 'large', copyUps: [{ path, bytesCopied: 1 }] }));
    assert.equal(store.count, 1);
    assert.ok(store.find('large'));
  });
});
