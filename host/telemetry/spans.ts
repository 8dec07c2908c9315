/**
 * A call as OpenTelemetry spans: `hatch.invoke` over `hatch.queue`, `hatch.start` (with a child for
 * each of its steps) and `hatch.handler`, under the caller's span when it sent a `traceparent`.
 */
import { randomBytes } from 'node:crypto';
import { SpanKind, SpanStatusCode, TraceFlags } from '@opentelemetry/api';
import type { Attributes, HrTime, SpanContext } from '@opentelemetry/api';
import type { Resource } from '@opentelemetry/resources';
import type { ReadableSpan } from '@opentelemetry/sdk-trace';
import { errorCodes } from '../base/errors.ts';
import type { CallRecord, CopyUp } from '../base/channels.ts';
import { phasesOf } from './phases.ts';
import type { Phase } from './phases.ts';

export interface SpanSource {
  resource: Resource;
  /** What to add to CLOCK_MONOTONIC nanoseconds to have nanoseconds since 1970. */
  epochOffsetNs: bigint;
}

/** The spans of one call, parents first; none when the caller's trace is not sampled. */
export function spansOf(record: CallRecord, source: SpanSource): ReadableSpan[] {
  const remote = parseTraceparent(record.traceparent);
  if (remote !== undefined && (remote.traceFlags & TraceFlags.SAMPLED) === 0) return [];
  const traceId = remote?.traceId ?? randomBytes(16).toString('hex');
  const { queue, start, handler, ahead } = phasesOf(record);

  const invoke = new FinishedSpan({
    source,
    name: 'hatch.invoke',
    kind: SpanKind.SERVER,
    traceId,
    parent: remote,
    phase: { startNs: record.receivedNs, endNs: record.endNs },
    attributes: invokeAttributes(record),
  });
  if (record.error !== undefined) invoke.fail(record.error);
  const child = (name: string, phase: Phase, attributes: Attributes = {}, of = invoke) =>
    new FinishedSpan({ source, name, traceId, parent: of.spanContext(), phase, attributes });

  const spans = [invoke, child('hatch.queue', queue)];
  if (start !== undefined) {
    const readAheadBytes = record.startRecord?.readAheadBytes;
    const attributes = {
      'hatch.start.path': start.path,
      ...(readAheadBytes === undefined ? {} : { 'hatch.start.read_ahead_bytes': readAheadBytes }),
      ...isolationAttributes(record),
    };
    const startSpan = child('hatch.start', start, attributes);
    spans.push(startSpan);
    // What was done ahead of the call began before its parent: its own times say so.
    for (const step of [...ahead, ...start.steps]) {
      spans.push(child(`hatch.start.${step.name}`, step, { 'hatch.step': step.name }, startSpan));
    }
  }
  if (handler !== undefined) {
    const span = child('hatch.handler', handler);
    if (record.error !== undefined) span.fail(record.error);
    for (const copyUp of record.copyUps)
      span.addEvent('overlay.copy_up', handler.endNs, copyUpAttributes(copyUp));
    spans.push(span);
  }
  return spans;
}

/** By the semantic conventions for functions and messaging, and our own names for the rest. */
function invokeAttributes(record: CallRecord): Attributes {
  const { start, instanceId, error } = record;
  return {
    'faas.name': record.functionName,
    'faas.version': record.functionVersion,
    'faas.invocation_id': record.requestId,
    'faas.trigger': 'pubsub',
    'faas.coldstart': start !== undefined && start !== 'hot',
    'messaging.system': 'nats',
    'messaging.operation.type': 'process',
    'messaging.destination.name': record.subject,
    'messaging.message.body.size': record.requestBytes,
    'hatch.reply.body.size': record.replyBytes,
    ...(instanceId === undefined ? {} : { 'faas.instance': instanceId }),
    ...(start === undefined ? {} : { 'hatch.start.path': start }),
    ...(error === undefined
      ? {}
      : { 'error.type': error.code, 'hatch.error.fault': errorCodes[error.code].fault }),
  };
}

function copyUpAttributes(copyUp: CopyUp): Attributes {
  const { path, bytesCopied, bytesChanged, attributesChanged, durationNs, systemCall } = copyUp;
  return {
    'file.path': path,
    'overlay.bytes_copied': bytesCopied,
    ...(bytesChanged === undefined ? {} : { 'overlay.bytes_changed': bytesChanged }),
    ...(attributesChanged === undefined ? {} : { 'overlay.attributes_changed': attributesChanged }),
    ...(durationNs === undefined ? {} : { 'overlay.duration_ns': durationNs }),
    ...(systemCall === undefined ? {} : { 'overlay.system_call': systemCall }),
  };
}

function isolationAttributes({ startRecord }: CallRecord): Attributes {
  const layers = Object.entries(startRecord?.isolation ?? {});
  const enforced = layers.filter(([, state]) => state === 'enforced');
  const others = layers.filter(([, state]) => state !== 'enforced');
  return {
    'hatch.isolation.enforced': enforced.map(([name]) => name),
    'hatch.isolation.unavailable': others.map(([name, state]) => `${name} ${state}`),
  };
}

interface SpanFacts {
  source: SpanSource;
  name: string;
  kind?: SpanKind;
  traceId: string;
  parent: SpanContext | undefined;
  phase: Phase;
  attributes: Attributes;
}

/** All is known when a span is made here: it needs no tracer, no clock and no context. */
class FinishedSpan implements ReadableSpan {
  readonly name: string;
  readonly kind: SpanKind;
  readonly parentSpanContext?: SpanContext;
  readonly startTime: HrTime;
  readonly endTime: HrTime;
  readonly duration: HrTime;
  readonly attributes: Attributes;
  readonly resource: Resource;
  readonly events: ReadableSpan['events'] = [];
  readonly links = [];
  readonly ended = true;
  readonly instrumentationScope = { name: 'hatchery' };
  readonly droppedAttributesCount = 0;
  readonly droppedEventsCount = 0;
  readonly droppedLinksCount = 0;
  readonly #context: SpanContext;
  readonly #epochOffsetNs: bigint;
  #status: ReadableSpan['status'] = { code: SpanStatusCode.UNSET };

  constructor({ source, name, kind, traceId, parent, phase, attributes }: SpanFacts) {
    this.name = name;
    this.kind = kind ?? SpanKind.INTERNAL;
    if (parent !== undefined) this.parentSpanContext = parent;
    this.resource = source.resource;
    this.attributes = attributes;
    this.#epochOffsetNs = source.epochOffsetNs;
    this.startTime = this.#toEpoch(phase.startNs);
    this.endTime = this.#toEpoch(phase.endNs);
    this.duration = hrTime(BigInt(Math.max(0, phase.endNs - phase.startNs)));
    const spanId = randomBytes(8).toString('hex');
    this.#context = { traceId, spanId, traceFlags: TraceFlags.SAMPLED };
  }

  get status(): ReadableSpan['status'] {
    return this.#status;
  }

  spanContext(): SpanContext {
    return this.#context;
  }

  fail({ message }: { message: string }): void {
    this.#status = { code: SpanStatusCode.ERROR, message };
  }

  addEvent(name: string, timeNs: number, attributes: Attributes): void {
    this.events.push({ name, time: this.#toEpoch(timeNs), attributes });
  }

  #toEpoch(ns: number): HrTime {
    return hrTime(BigInt(ns) + this.#epochOffsetNs);
  }
}

function hrTime(ns: bigint): HrTime {
  return [Number(ns / 1_000_000_000n), Number(ns % 1_000_000_000n)];
}

const traceparentPattern = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** The caller's span as W3C trace context has it; undefined when it is not valid. */
function parseTraceparent(header: string | undefined): SpanContext | undefined {
  const match = traceparentPattern.exec(header ?? '');
  if (match === null) return undefined;
  const [, version, traceId = '', spanId = '', flags = '', rest] = match;
  // Version 00 has four fields; a later one may have more; ff and ids of zeros are forbidden.
  if (version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
}
