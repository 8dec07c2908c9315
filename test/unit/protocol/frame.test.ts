import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeFrame, frameHeaderBytes, FrameReader } from '../../../host/protocol/frame.ts';

interface Plain {
  type: number;
  callId: number;
  body: string;
}

function readAll(reader: FrameReader, chunks: Iterable<Buffer>): Plain[] {
  const frames: Plain[] = [];
  for (const chunk of chunks)
    reader.push(chunk, ({ type, callId, body }) =>
      frames.push({ type, callId, body: body.toString('latin1') }),
    );
  return frames;
}

function* cut(bytes: Buffer, sizes: readonly number[]): Generator<Buffer> {
  let offset = 0;
  for (let turn = 0; offset < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    // A copy, as each read from a socket is: a view would hide a body that is kept too long.
    yield Buffer.from(bytes.subarray(offset, offset + size));
    offset += size;
  }
}

test('frames come out the same however the stream is cut', () => {
  const frame = fc.record({
    type: fc.nat(255),
    callId: fc.nat(0xffffffff),
    body: fc.uint8Array({ maxLength: 300 }),
  });
  const sizes = fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 30 }), sizes, (frames, chunkSizes) => {
      const stream = Buffer.concat(
        frames.map(({ type, callId, body }) => encodeFrame(type, callId, body)),
      );
      const expected = frames.map(({ type, callId, body }) => ({
        type,
        callId,
        body: Buffer.from(body).toString('latin1'),
      }));
      assert.deepEqual(readAll(new FrameReader(), cut(stream, chunkSizes)), expected);
    }),
  );
});

test('the parts of a body are written one behind the other', () => {
  const frame = encodeFrame(7, 9, Buffer.from('ab'), Buffer.alloc(0), Buffer.from('c'));
  assert.equal(frame.length, frameHeaderBytes + 3);
  assert.deepEqual(readAll(new FrameReader(), [frame]), [{ type: 7, callId: 9, body: 'abc' }]);
});

for (const length of [0, 4, 101, 0xffffffff])
  test(`a length of ${length} is refused before anything is kept for it`, () => {
    const reader = new FrameReader({ bytesMax: 100 });
    const header = Buffer.alloc(9);
    header.writeUInt32LE(length, 0);
    assert.throws(() => reader.push(header, () => undefined), RangeError);
  });

test('a length is refused even when its four bytes come one by one', () => {
  const reader = new FrameReader({ bytesMax: 100 });
  const push = (byte: number) => reader.push(Buffer.of(byte), () => undefined);
  for (const byte of [0xff, 0xff, 0xff]) push(byte);
  assert.throws(() => push(0xff), RangeError);
});

test('a peer that sends single bytes costs about what it sent', () => {
  const bodyBytes = 1_000_000;
  const stream = encodeFrame(19, 1, Buffer.alloc(bodyBytes, 'x'));
  const reader = new FrameReader();
  const before = process.memoryUsage();
  let frames = 0;
  for (let offset = 0; offset < stream.length - 1; offset++)
    reader.push(Buffer.from(stream.subarray(offset, offset + 1)), () => frames++);
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  assert.equal(frames, 0);
  // A million Buffer objects kept would be some 100 MB.
  assert.ok(heapUsed - before.heapUsed < 50e6, `heap grew by ${heapUsed - before.heapUsed}`);
  assert.ok(arrayBuffers - before.arrayBuffers < 50e6);
  reader.push(stream.subarray(-1), ({ body }) => {
    frames++;
    assert.equal(body.length, bodyBytes);
  });
  assert.equal(frames, 1);
});
