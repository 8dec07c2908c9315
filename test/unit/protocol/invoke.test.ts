import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  encodeJsonFrame,
  FrameReader,
  frameType,
  type Frame,
} from '../../../host/protocol/frame.ts';
import {
  decodeCall,
  decodeJson,
  encodeCall,
  encodeResultFrame,
} from '../../../host/protocol/invoke.ts';

function only(bytes: Buffer): Frame {
  const frames: Frame[] = [];
  new FrameReader().push(bytes, (frame) => frames.push(frame));
  const [frame] = frames;
  assert.ok(frame !== undefined && frames.length === 1);
  return frame;
}

test('a call keeps its metadata and every byte of its payload', () => {
  const metadata = fc.record({
    requestId: fc.string(),
    subject: fc.string({ unit: 'grapheme' }),
    headers: fc.dictionary(fc.string(), fc.array(fc.string(), { minLength: 1, maxLength: 3 })),
    attempt: fc.integer({ min: 1, max: 100 }),
    timeoutMs: fc.nat(),
  });
  fc.assert(
    fc.property(metadata, fc.uint8Array({ maxLength: 500 }), (sent, payload) => {
      const received = decodeCall(only(encodeCall(4711, sent, payload)));
      assert.equal(JSON.stringify(received.metadata), JSON.stringify(sent));
      assert.deepEqual(new Uint8Array(received.payload), payload);
    }),
  );
});

test('a result is its encoding, then every byte of the value', () => {
  const frame = only(encodeResultFrame(7, 1, Buffer.from('ä')));
  assert.deepEqual([frame.type, frame.callId], [frameType.result, 7]);
  assert.deepEqual([...frame.body], [1, 0xc3, 0xa4]);
});

test('a JSON frame carries its value', () => {
  const frame = only(encodeJsonFrame(20, 3, { code: 'function.threw', message: 'ä\n"' }));
  assert.equal(frame.callId, 3);
  assert.deepEqual(decodeJson(frame), { code: 'function.threw', message: 'ä\n"' });
});
