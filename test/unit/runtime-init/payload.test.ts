import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { resultEncoding } from '../../../host/protocol/invoke.ts';
import { CallFailure, decodeEvent, encodeResult } from '../../../runtime-init/payload.ts';

test('JSON comes in as the value that was sent', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = JSON.stringify(value);
      assert.equal(JSON.stringify(decodeEvent(Buffer.from(text), {})), text);
    }),
  );
});

test('what is no JSON comes in as bytes of its own', () => {
  const payload = Buffer.from([0xff, 0x00, 0x7b]);
  const event = decodeEvent(payload, {});
  assert.ok(event instanceof Uint8Array && !Buffer.isBuffer(event));
  payload.fill(0);
  assert.deepEqual([...event], [0xff, 0x00, 0x7b]);
});

test('a content type that is not JSON keeps bytes bytes', () => {
  const payload = Buffer.from('{"a":1}');
  const typed = (type: string) => decodeEvent(payload, { 'Content-Type': [type] });
  assert.ok(typed('text/plain') instanceof Uint8Array);
  assert.deepEqual(typed('application/json'), { a: 1 });
  assert.deepEqual(typed('application/cloudevents+json; charset=utf-8'), { a: 1 });
  assert.ok(decodeEvent(payload, { 'content-type': ['text/plain'] }) instanceof Uint8Array);
});

test('no payload is undefined, whatever its type', () => {
  assert.equal(decodeEvent(Buffer.alloc(0), {}), undefined);
  assert.equal(decodeEvent(Buffer.alloc(0), { 'Content-Type': ['text/plain'] }), undefined);
});

test('results are JSON, bytes, or nothing', () => {
  const json = (value: unknown) => {
    const [encoding, bytes] = encodeResult(value);
    assert.equal(encoding, resultEncoding.json);
    return Buffer.from(bytes).toString();
  };
  assert.equal(json({ a: [1, null, 'ä'] }), '{"a":[1,null,"ä"]}');
  assert.equal(json(null), 'null');
  assert.equal(json(0), '0');
  assert.equal(json(new Date(0)), '"1970-01-01T00:00:00.000Z"');
  assert.deepEqual(encodeResult(undefined)[0], resultEncoding.none);
  const part = new Uint16Array([1, 2, 3, 4]).subarray(1, 3);
  for (const value of [part, Buffer.from(part.buffer, 2, 4), part.slice().buffer]) {
    const [encoding, bytes] = encodeResult(value);
    assert.equal(encoding, resultEncoding.bytes);
    assert.deepEqual([...bytes], [2, 0, 3, 0]);
  }
});

for (const [what, value] of [
  ['a BigInt', 1n],
  ['a function', () => 1],
  ['a symbol', Symbol('s')],
  [
    'what throws when it is asked',
    {
      toJSON: () => {
        throw new TypeError('no');
      },
    },
  ],
] as const)
  test(`${what} is no result`, () => {
    assert.throws(
      () => encodeResult(value),
      (error) => error instanceof CallFailure && error.code === 'function.result_invalid',
    );
  });

test('a result that no server would take is refused before it is sent', () => {
  assert.throws(
    () => encodeResult(new Uint8Array(40 * 2 ** 20 + 1)),
    (error) => error instanceof CallFailure && error.code === 'function.result_too_large',
  );
});
