import assert from 'node:assert/strict';
import { closeSync, openSync, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { test, type TestContext } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import {
  encodeFrame,
  encodeJsonFrame,
  FrameReader,
  frameType,
  type Frame,
} from '../../../host/protocol/frame.ts';
import { decodeCall, resultEncoding } from '../../../host/protocol/invoke.ts';
import { FunctionChannel, type Output } from '../../../host/sandbox/function-channel.ts';
import { openChannelEnds } from '../../support/channel-ends.ts';

/** A channel with the test at the function's end. */
function open(context: TestContext) {
  const { near, far } = openChannelEnds();
  const outputs: Output[] = [];
  const broken: HatchError[] = [];
  let ended = 0;
  const channel = new FunctionChannel(near, {
    onOutput: (output) => outputs.push(output),
    onEnd: () => ended++,
    onBroken: (reason) => {
      broken.push(reason);
      channel.close(reason);
    },
  });
  const peer = new Socket({ fd: far.invoke, writable: false });
  const answers = new Socket({ fd: far.answers, readable: false });
  const received: Frame[] = [];
  const reader = new FrameReader();
  peer.on('data', (chunk: Buffer) =>
    reader.push(Buffer.from(chunk), (frame) => received.push(frame)),
  );
  context.after(() => {
    channel.close(new HatchError('host.draining', 'The test is over'));
    peer.destroy();
    answers.destroy();
  });
  return { channel, peer, answers, received, outputs, broken, ended: () => ended };
}

const metadata = { requestId: 'r', subject: 's', attempt: 1, timeoutMs: 1000 };

async function until(isTrue: () => boolean): Promise<void> {
  const deadline = performance.now() + 2000;
  while (!isTrue()) {
    assert.ok(performance.now() < deadline, 'it did not happen');
    await turn();
  }
}

test('answers find their calls, in any order', async (context) => {
  const { channel, answers, received } = open(context);
  const ids: number[] = [];
  const [first, second] = ['a', 'b'].map((text) =>
    channel.call(metadata, Buffer.from(text), (id) => ids.push(id)),
  );
  await until(() => received.length === 2);
  assert.deepEqual(
    received.map((frame) => decodeCall(frame).payload.toString()),
    ['a', 'b'],
  );
  const [firstId = 0, secondId = 0] = ids;
  answers.write(
    encodeFrame(frameType.result, secondId, Buffer.of(resultEncoding.json), Buffer.from('2')),
  );
  const error = { code: 'function.threw', message: 'no', name: 'Teapot', stack: 'here' };
  answers.write(encodeJsonFrame(frameType.error, firstId, error));
  const result = await second;
  assert.deepEqual(
    [result?.encoding, Buffer.from(result?.payload ?? []).toString()],
    ['json', '2'],
  );
  await assert.rejects(first ?? assert.fail(), {
    code: 'function.threw',
    message: 'no',
    details: { name: 'Teapot', stack: 'here' },
  });
  assert.equal(channel.pendingCalls, 0);
});

test('calls keep their order and lose nothing when the function does not read', async (context) => {
  const { channel, peer, received } = open(context);
  peer.pause();
  // Far more than a socket holds: the first does not fit, the others wait behind it.
  const payloads = [3_000_000, 1, 500_000, 2].map((bytes, index) => Buffer.alloc(bytes, index + 1));
  const send = (payload: Buffer) =>
    channel.call(metadata, payload, () => undefined).catch(() => undefined);
  for (const payload of payloads.slice(0, 2)) void send(payload);
  await turn();
  for (const payload of payloads.slice(2)) void send(payload);
  peer.resume();
  await until(() => received.length === payloads.length);
  for (const [index, frame] of received.entries())
    assert.ok(decodeCall(frame).payload.equals(payloads[index] ?? assert.fail()), `call ${index}`);
});

test('the first call is sent at once, those beside it together', (context) => {
  const { near, far } = openChannelEnds();
  const channel = new FunctionChannel(near, {
    onOutput: () => undefined,
    onEnd: () => undefined,
    onBroken: () => undefined,
  });
  context.after(() => {
    channel.close(new HatchError('host.draining', 'The test is over'));
    closeSync(far.invoke);
    closeSync(far.answers);
  });
  const seen: string[] = [];
  const reader = new FrameReader();
  for (const text of ['a', 'b', 'c'])
    void channel.call(metadata, Buffer.from(text), () => undefined).catch(() => undefined);
  const chunk = Buffer.alloc(4096);
  reader.push(chunk.subarray(0, readSync(far.invoke, chunk)), (frame) =>
    seen.push(decodeCall(frame).payload.toString()),
  );
  assert.deepEqual(seen, ['a']);
});

test('output keeps its call and its stream', async (context) => {
  const { answers, outputs } = open(context);
  answers.write(encodeFrame(frameType.log, 5, Buffer.of(2), Buffer.from('ä\n')));
  await until(() => outputs.length === 1);
  assert.deepEqual(outputs, [{ callId: 5, stream: 'stderr', text: 'ä\n' }]);
});

const invented: [code: string, believed: string][] = [
  ['function.invented', 'function.threw'],
  ['internal.bug', 'function.threw'],
  ['host.busy', 'function.threw'],
  ['function.toString', 'function.threw'],
  ['function.timeout', 'function.timeout'],
  ['function.result_invalid', 'function.result_invalid'],
];
for (const [code, believed] of invented)
  test(`a function that says "${code}" is taken to say "${believed}"`, async (context) => {
    const { channel, answers } = open(context);
    let callId = 0;
    const call = channel.call(metadata, Buffer.alloc(0), (id) => (callId = id));
    answers.write(encodeJsonFrame(frameType.error, callId, { code, message: 'm' }));
    await assert.rejects(call, { code: believed });
  });

const unreadable: [what: string, frame: (callId: number) => Buffer][] = [
  ['an impossible length', () => Buffer.alloc(9, 0xff)],
  ['an unknown type', (callId) => encodeFrame(77, callId)],
  ['an error that is no JSON', (callId) => encodeFrame(frameType.error, callId, Buffer.from('{'))],
  ['an error that is nothing', (callId) => encodeJsonFrame(frameType.error, callId, null)],
  ['an error without a code', (callId) => encodeJsonFrame(frameType.error, callId, {})],
  ['steps that are none', () => encodeJsonFrame(frameType.ready, 0, { steps: 'many' })],
  ['steps without times', () => encodeJsonFrame(frameType.ready, 0, { steps: [{ name: 'x' }] })],
  [
    'too many steps',
    () =>
      encodeJsonFrame(frameType.ready, 0, {
        steps: Array(1000).fill({ name: '', startNs: 1, endNs: 1 }),
      }),
  ],
  ['output without measure', () => encodeFrame(frameType.log, 0, Buffer.alloc(2_000_000))],
];
for (const [what, frame] of unreadable)
  test(`${what} breaks the channel, and every call is told`, async (context) => {
    const { channel, answers, broken } = open(context);
    let callId = 0;
    const call = channel.call(metadata, Buffer.alloc(0), (id) => (callId = id));
    answers.write(frame(callId));
    await assert.rejects(call, { code: 'function.exited' });
    assert.equal(broken.length, 1);
    assert.equal(channel.open, false);
    await assert.rejects(channel.call(metadata, Buffer.alloc(0), () => undefined));
  });

test('a process that says it cannot go on fails all its calls with its reason', async (context) => {
  const { channel, answers, broken } = open(context);
  answers.write(encodeJsonFrame(frameType.ready, 0, { steps: [] }));
  const calls = [1, 2].map(() => channel.call(metadata, Buffer.alloc(0), () => undefined));
  answers.write(
    encodeJsonFrame(frameType.failed, 0, { code: 'function.threw', message: 'uncaught' }),
  );
  for (const call of calls)
    await assert.rejects(call, { code: 'function.threw', message: 'uncaught' });
  assert.equal(broken.length, 1);
});

test('a closed far end is told once, and the channel is open no more', async (context) => {
  const { channel, peer, answers, ended } = open(context);
  answers.destroy();
  await until(() => ended() === 1);
  assert.equal(channel.open, false);
  peer.destroy();
  void channel.call(metadata, Buffer.alloc(0), () => undefined).catch(() => undefined);
  for (let turns = 0; turns < 10; turns++) await turn();
  assert.equal(ended(), 1);
});

test('a function that takes no calls has ended, though its answers are open', async (context) => {
  const { channel, peer, ended } = open(context);
  peer.destroy();
  await turn();
  void channel.call(metadata, Buffer.alloc(0), () => undefined).catch(() => undefined);
  await until(() => ended() === 1);
  assert.equal(channel.open, false);
});

test('output without end is read in turns, and all of it arrives', async (context) => {
  const { answers, outputs } = open(context);
  const line = encodeFrame(frameType.log, 1, Buffer.of(1), Buffer.from('line\n'));
  const count = 20_000;
  answers.write(Buffer.concat(Array.from({ length: count }, () => line)));
  const started = performance.now();
  await until(() => outputs.length === count);
  assert.ok(performance.now() - started >= 15, 'nobody else had a turn');
});

test('what is written to a channel after its end does no harm', async (context) => {
  const { channel } = open(context);
  const call = channel.call(metadata, Buffer.alloc(0), () => undefined);
  channel.close(new HatchError('host.draining', 'Enough'));
  channel.close(new HatchError('internal.bug', 'The first reason stays'));
  channel.cancel(1, 'caller');
  await assert.rejects(call, { code: 'host.draining' });
  await assert.rejects(channel.parked, { code: 'host.draining' });
});

test('a process that ends before it has its root fails the start only', async (context) => {
  const { channel, peer } = open(context);
  peer.destroy();
  await turn();
  const unhandled: unknown[] = [];
  const listener = (reason: unknown) => unhandled.push(reason);
  process.on('unhandledRejection', listener);
  const root = openSync('/dev/null', 'r');
  await assert.rejects(channel.sendRoot([root]), { code: 'host.start_failed' });
  closeSync(root);
  // As the starter does.
  channel.close(new HatchError('host.start_failed', 'As it failed'));
  await turn();
  process.off('unhandledRejection', listener);
  assert.deepEqual(unhandled, []);
});
