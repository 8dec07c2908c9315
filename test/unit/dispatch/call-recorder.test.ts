import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { channels } from '../../../host/base/channels.ts';
import type { CallRecord, CopyUp } from '../../../host/base/channels.ts';
import { CallRecorder } from '../../../host/dispatch/call-recorder.ts';
import type { Instance } from '../../../host/dispatch/instance-pool.ts';

let stopListening = (): void => {};
afterEach(() => stopListening());

function published(): CallRecord[] {
  const records: CallRecord[] = [];
  const listen = (record: unknown): void => {
    records.push(record as CallRecord);
  };
  channels.callEnd.subscribe(listen);
  stopListening = () => channels.callEnd.unsubscribe(listen);
  return records;
}

function instance(looks: CopyUp[][]): Instance & { looks: number } {
  return {
    id: 'i1',
    looks: 0,
    call: () => Promise.reject(new Error('not called here')),
    cancel: () => undefined,
    copyUps() {
      this.looks += 1;
      const found = looks.shift();
      return found === undefined ? Promise.reject(new Error('gone')) : Promise.resolve(found);
    },
  };
}

function record(requestId: string): CallRecord {
  return {
    requestId,
    functionName: 'f',
    functionVersion: '1',
    instanceId: 'i1',
    subject: 'hatch.fn.f',
    traceparent: undefined,
    start: 'hot',
    startRecord: undefined,
    receivedNs: 1,
    dispatchedNs: 2,
    endNs: 3,
    requestBytes: 0,
    replyBytes: 0,
    error: undefined,
    copyUps: [],
  };
}

const copied: CopyUp = { path: '/function/x', bytesCopied: 8 };

test('a record goes out with its copy-ups once the instance was looked at', async () => {
  const records = published();
  const recorder = new CallRecorder({ delayMs: 1 });
  const one = instance([[copied]]);
  recorder.begin(one);
  recorder.end(one, record('a'));
  assert.deepEqual(records, []);
  await recorder.flush();
  assert.deepEqual(
    records.map(({ requestId, copyUps }) => [requestId, copyUps]),
    [['a', [copied]]],
  );
});

test('calls without a gap share one look, which is the account of the last', async () => {
  const records = published();
  const recorder = new CallRecorder({ delayMs: 1000 });
  const one = instance([[copied]]);
  for (const id of ['a', 'b', 'c']) {
    recorder.begin(one);
    recorder.end(one, record(id));
  }
  await recorder.flush();
  assert.deepEqual(
    records.map(({ requestId, copyUps }) => [requestId, copyUps.length]),
    [
      ['a', 0],
      ['b', 0],
      ['c', 1],
    ],
  );
  assert.equal(one.looks, 1);
});

test('records that need no look go out after a while, or when there are many', async () => {
  const records = published();
  const recorder = new CallRecorder({ delayMs: 1 });
  const one = instance([[]]);
  const callOnce = (id: number): void => {
    recorder.begin(one);
    recorder.end(one, record(String(id)));
  };
  callOnce(1);
  callOnce(2);
  assert.deepEqual(records, []);
  await sleep(20);
  assert.equal(records.length, 2);
  for (let id = 3; id < 3 + 257; id++) callOnce(id);
  assert.equal(records.length, 2 + 256);
  await recorder.flush();
  assert.equal(records.length, 2 + 257);
});

test('calls that overlap on one instance are all published', async () => {
  const records = published();
  const recorder = new CallRecorder({ delayMs: 1000 });
  const one = instance([[]]);
  recorder.begin(one);
  recorder.begin(one);
  recorder.end(one, record('a'));
  recorder.end(one, record('b'));
  await recorder.flush();
  assert.deepEqual(
    records.map(({ requestId }) => requestId),
    ['a', 'b'],
  );
});

test('an instance that is gone costs the copy-ups, not the record', async () => {
  const records = published();
  const recorder = new CallRecorder({ delayMs: 1 });
  recorder.end(instance([]), record('a'));
  await recorder.flush();
  assert.deepEqual(records[0]?.copyUps, []);
});

test('one instance is looked at without waiting for the others to be quiet', async () => {
  const records = published();
  const recorder = new CallRecorder({ delayMs: 1 });
  const [one, other] = [instance([[copied]]), instance([[]])];
  recorder.end(one, record('a'));
  recorder.end(other, record('b'));
  recorder.begin(other);
  await recorder.flush();
  assert.deepEqual(
    records.map(({ requestId, copyUps }) => [requestId, copyUps.length]),
    [
      ['b', 0],
      ['a', 1],
    ],
  );
});
