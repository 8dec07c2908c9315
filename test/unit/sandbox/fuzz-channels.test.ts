/** What comes out of a container may be anything: its channels break, the host goes on. */
import assert from 'node:assert/strict';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../../host/base/errors.ts';
import { encodeFrame } from '../../../host/protocol/frame.ts';
import { FunctionChannel } from '../../../host/sandbox/function-channel.ts';
import { InitChannel } from '../../../host/sandbox/init-channel.ts';
import { socketPair } from '../../../host/sys/socket.ts';
import { openChannelEnds } from '../../support/channel-ends.ts';

const runs = { numRuns: 150, interruptAfterTimeLimit: 4000 };

const json = fc.jsonValue().map((value) => Buffer.from(JSON.stringify(value)));
const known = fc
  .record({
    code: fc.constantFrom('function.threw', 'internal.bug', '__proto__', null),
    message: fc.jsonValue(),
    steps: fc.oneof(fc.jsonValue(), fc.array(fc.jsonValue())),
  })
  .map((value) => Buffer.from(JSON.stringify(value)));
const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
const frame = fc
  .record({
    type: fc.oneof(fc.constantFrom(16, 17, 18, 19, 20, 21), fc.nat(255)),
    callId: fc.oneof(fc.nat(3), fc.nat(0xffffffff)),
    body: fc.oneof(json, known, bytes),
  })
  .map(({ type, callId, body }) => encodeFrame(type, callId, body));
const stream = fc.array(fc.oneof({ weight: 4, arbitrary: frame }, bytes), { maxLength: 12 });

test("a function's answers: every call ends, whatever is said and wherever it stops", () =>
  fc.assert(
    fc.asyncProperty(stream, fc.nat(50), async (parts, cutBytes) => {
      const { near, far } = openChannelEnds();
      const peer = new Socket({ fd: far.answers, readable: false });
      const ended = Promise.withResolvers<HatchError>();
      const channel = new FunctionChannel(near, {
        onOutput: ({ text }) => assert.equal(typeof text, 'string'),
        onEnd: () => ended.resolve(new HatchError('function.exited', 'It closed its channel')),
        onBroken: ended.resolve,
      });
      const metadata = { requestId: 'r', subject: 's', attempt: 1, timeoutMs: 1000 };
      const calls = [1, 2].map(() => channel.call(metadata, Buffer.from('x'), () => undefined));
      const settled = Promise.allSettled(calls);
      const said = Buffer.concat(parts);
      peer.end(said.subarray(0, Math.max(0, said.length - cutBytes)));
      const reason = await ended.promise;
      assert.ok(reason instanceof HatchError);
      channel.close(reason);
      for (const result of await settled)
        if (result.status === 'rejected') assert.ok(result.reason instanceof HatchError);
      assert.equal(channel.pendingCalls, 0);
      peer.destroy();
      closeSync(far.invoke);
    }),
    runs,
  ));

test("PID 1's socket: it ends, and no other exit is believed than one that can be", () => {
  const exit = fc.record({ type: fc.constant('exited'), exitCode: fc.jsonValue() });
  const message = fc.oneof(exit, fc.record({ type: fc.jsonValue() }), fc.jsonValue());
  const line = fc.oneof(
    message.map((value) => `${JSON.stringify(value)}\n`),
    fc.string(),
    fc.constant('x'.repeat(10_000)),
  );
  return fc.assert(
    fc.asyncProperty(fc.array(line, { maxLength: 10 }), async (lines) => {
      const [near, far] = socketPair('stream');
      const peer = new Socket({ fd: far });
      peer.on('error', () => undefined);
      peer.resume();
      const exits: unknown[] = [];
      const channel = new InitChannel(new Socket({ fd: near }), ({ exitCode }) => {
        exits.push(exitCode);
      });
      peer.end(lines.join(''));
      await channel.ended;
      for (const code of exits)
        assert.ok(Number.isInteger(code) && Number(code) >= 0 && Number(code) <= 255);
      peer.destroy();
    }),
    runs,
  );
});
