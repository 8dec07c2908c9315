import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { errorReply, replyHeaders } from '../../../host/dispatch/reply.ts';
import type { ErrorEnvelope } from '../../../host/dispatch/reply.ts';

const facts = { requestId: 'r1', start: 'hot', durationUs: 5 } as const;

function envelopeOf(error: HatchError): ErrorEnvelope['error'] {
  const { payload } = errorReply(error, facts);
  return (JSON.parse(Buffer.from(payload).toString()) as ErrorEnvelope).error;
}

function headersOf(error: HatchError): string {
  const { headers } = errorReply(error, facts);
  return Buffer.from((headers as unknown as { encode(): Uint8Array }).encode()).toString();
}

test('the headers of a reply are the bytes that NATS wants', () => {
  assert.equal(
    Buffer.from(replyHeaders(facts).bytes).toString(),
    'NATS/1.0\r\nHatch-Request-Id: r1\r\nHatch-Start: hot\r\nHatch-Duration-Us: 5\r\n\r\n',
  );
  assert.doesNotMatch(
    Buffer.from(replyHeaders({ ...facts, start: undefined }).bytes).toString(),
    /Hatch-Start/,
  );
});

test('a message cannot add headers of its own, nor be without end', () => {
  const text = headersOf(new HatchError('function.threw', 'a\r\nHatch-Start: forged\r\n\r\nb\0c'));
  assert.match(text, /Nats-Service-Error: a Hatch-Start: forged b c\r\n/);
  assert.equal(text.split('\r\n').length, 8);
  const long = headersOf(new HatchError('function.threw', 'x'.repeat(1e6)));
  assert.ok(long.length < 1000);
  assert.equal(envelopeOf(new HatchError('function.threw', 'x'.repeat(1e6))).message.length, 8192);
});

test('details go along unless there are none or too many', () => {
  assert.equal('details' in envelopeOf(new HatchError('function.threw', 'x')), false);
  const small = new HatchError('function.oom', 'x', { details: { limitBytes: 1 } });
  assert.deepEqual(envelopeOf(small).details, { limitBytes: 1 });
  const large = new HatchError('function.oom', 'x', { details: { text: 'y'.repeat(1e6) } });
  assert.equal('details' in envelopeOf(large), false);
});

test('only what passes by itself says when to try again', () => {
  const details = { retryAfterMs: 12.3 };
  assert.match(headersOf(new HatchError('host.busy', 'x', { details })), /Retry-After-Ms: 13\r\n/);
  assert.match(headersOf(new HatchError('host.draining', 'x')), /Retry-After-Ms: 100\r\n/);
  assert.doesNotMatch(headersOf(new HatchError('function.oom', 'x', { details })), /Retry-After/);
});
