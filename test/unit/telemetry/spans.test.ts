import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SpanStatusCode } from '@opentelemetry/api';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { spansOf } from '../../../host/telemetry/spans.ts';
import { callRecord, hotCall, startRecord } from './records.ts';

const epochOffsetNs = 1_700_000_000_000_000_000n;
const source = { resource: resourceFromAttributes({ 'service.name': 'hatchery' }), epochOffsetNs };
const traceId = '0af7651916cd43dd8448eb211c80319c';

describe('the spans of a call', () => {
  test('form the tree of its phases and steps', () => {
    const spans = spansOf(callRecord(), source);
    const nameOf = new Map(spans.map((span) => [span.spanContext().spanId, span.name]));
    const tree = spans.map(({ name, parentSpanContext }) => [
      nameOf.get(parentSpanContext?.spanId ?? ''),
      name,
    ]);
    assert.deepEqual(tree, [
      [undefined, 'hatch.invoke'],
      ['hatch.invoke', 'hatch.queue'],
      ['hatch.invoke', 'hatch.start'],
      ['hatch.start', 'hatch.start.fork'],
      ['hatch.start', 'hatch.start.rootfs'],
      ['hatch.start', 'hatch.start.load'],
      ['hatch.invoke', 'hatch.handler'],
    ]);
    assert.equal(new Set(spans.map((span) => span.spanContext().traceId)).size, 1);
    assert.equal(nameOf.size, spans.length);
  });

  test('have the exact times of the record, in nanoseconds since 1970', () => {
    const atNs = 1_234_567_890_123_457;
    const spans = spansOf(callRecord({}, atNs), source);
    const fork = spans.find(({ name }) => name === 'hatch.start.fork');
    const start = epochOffsetNs + BigInt(atNs + 500_000);
    assert.deepEqual(fork?.startTime, [Number(start / 10n ** 9n), Number(start % 10n ** 9n)]);
    assert.deepEqual(fork?.duration, [0, 1_000_000]);
    const handler = spans.find(({ name }) => name === 'hatch.handler');
    assert.deepEqual(handler?.duration, [0, 1_500_000]);
    assert.deepEqual(handler?.endTime, spans[0]?.endTime);
  });

  test('say how much was read ahead of a start, where something was', () => {
    const ahead = startRecord({ readAheadBytes: 4096 });
    const [read, plain] = [callRecord({ startRecord: ahead }), callRecord()].map((record) =>
      spansOf(record, source).find(({ name }) => name === 'hatch.start'),
    );
    assert.equal(read?.attributes['hatch.start.read_ahead_bytes'], 4096);
    assert.ok(!('hatch.start.read_ahead_bytes' in (plain?.attributes ?? {})));
  });

  test('carry the FaaS conventions and the start path', () => {
    const [invoke, , start] = spansOf(callRecord(), source);
    assert.deepEqual(invoke?.attributes, {
      'faas.name': 'ledger',
      'faas.version': '3',
      'faas.invocation_id': 'r-1',
      'faas.trigger': 'pubsub',
      'faas.coldstart': true,
      'faas.instance': 'i-7f3a9c',
      'messaging.system': 'nats',
      'messaging.operation.type': 'process',
      'messaging.destination.name': 'hatch.fn.ledger',
      'messaging.message.body.size': 58,
      'hatch.reply.body.size': 2048,
      'hatch.start.path': 'forked',
    });
    const { 'hatch.isolation.enforced': enforced, ...others } = start?.attributes ?? {};
    assert.ok(Array.isArray(enforced) && enforced.includes('seccomp'));
    assert.deepEqual(others['hatch.start.path'], 'forked');
    const unavailable = others['hatch.isolation.unavailable'];
    assert.ok(Array.isArray(unavailable));
    assert.ok(unavailable.includes('apparmor unavailable: not active in this kernel'));
    assert.equal(spansOf(hotCall(), source)[0]?.attributes['faas.coldstart'], false);
  });

  test('show what was done ahead of the call under its start, with its own times', () => {
    const atNs = 10_000_000;
    const steps = [{ name: 'fork', startNs: 1_000_000, endNs: 2_000_000 }];
    const parked = startRecord({ path: 'parked', steps }, atNs);
    const spans = spansOf(callRecord({ start: 'parked', startRecord: parked }, atNs), source);
    const fork = spans.find(({ name }) => name === 'hatch.start.fork');
    assert.deepEqual(fork?.startTime, [1_700_000_000, 1_000_000]);
  });

  test('continue the trace of the caller', () => {
    const traceparent = `00-${traceId}-b7ad6b7169203331-01`;
    const [invoke] = spansOf(hotCall({ traceparent }), source);
    assert.equal(invoke?.spanContext().traceId, traceId);
    assert.equal(invoke?.parentSpanContext?.spanId, 'b7ad6b7169203331');
    assert.equal(invoke?.parentSpanContext?.isRemote, true);
  });

  test('are not made when the caller does not sample its trace', () => {
    const traceparent = `00-${traceId}-b7ad6b7169203331-00`;
    assert.deepEqual(spansOf(hotCall({ traceparent }), source), []);
  });

  for (const traceparent of [
    '',
    'garbage',
    `ff-${traceId}-b7ad6b7169203331-01`,
    `00-${'0'.repeat(32)}-b7ad6b7169203331-01`,
    `00-${traceId}-${'0'.repeat(16)}-01`,
    `00-${traceId.toUpperCase()}-b7ad6b7169203331-01`,
    `00-${traceId}-b7ad6b7169203331-01-more`,
  ]) {
    test(`begin a trace of their own when the traceparent is "${traceparent}"`, () => {
      const [invoke] = spansOf(hotCall({ traceparent }), source);
      assert.equal(invoke?.parentSpanContext, undefined);
      assert.match(invoke?.spanContext().traceId ?? '', /^(?!0{32})[0-9a-f]{32}$/);
      assert.notEqual(invoke?.spanContext().traceId, traceId);
    });
  }

  test('have the copy-ups as events of the handler', () => {
    const copyUps = [{ path: '/function/ledger.db', bytesCopied: 8_388_608 }];
    const handler = spansOf(hotCall({ copyUps }), source).at(-1);
    assert.deepEqual(handler?.events, [
      {
        name: 'overlay.copy_up',
        time: [1_700_000_000, 4_000_000],
        attributes: { 'file.path': '/function/ledger.db', 'overlay.bytes_copied': 8_388_608 },
      },
    ]);
  });

  test('are failed when the call failed, and say whose fault it was', () => {
    const error = { code: 'function.timeout', message: 'Function ran 30 s' } as const;
    const [invoke, queue, handler] = spansOf(hotCall({ error }), source);
    assert.deepEqual(invoke?.status, { code: SpanStatusCode.ERROR, message: 'Function ran 30 s' });
    assert.equal(invoke?.attributes['error.type'], 'function.timeout');
    assert.equal(invoke?.attributes['hatch.error.fault'], 'user');
    assert.equal(queue?.status.code, SpanStatusCode.UNSET);
    assert.equal(handler?.status.code, SpanStatusCode.ERROR);
  });
});
