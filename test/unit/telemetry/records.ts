import { isolationHere } from '../../../host/security/isolation.ts';
import type { CallRecord, LogRecord, StartRecord } from '../../../host/base/channels.ts';

const us = 1000;

/** A call of 4 ms that caused a forked start; times are counted from `atNs`. */
export function callRecord(changes: Partial<CallRecord> = {}, atNs = 0): CallRecord {
  return {
    requestId: 'r-1',
    functionName: 'ledger',
    functionVersion: '3',
    instanceId: 'i-7f3a9c',
    subject: 'hatch.fn.ledger',
    traceparent: undefined,
    start: 'forked',
    startRecord: startRecord({}, atNs),
    receivedNs: atNs,
    dispatchedNs: atNs + 2500 * us,
    endNs: atNs + 4000 * us,
    requestBytes: 58,
    replyBytes: 2048,
    error: undefined,
    copyUps: [],
    ...changes,
  };
}

export function startRecord(changes: Partial<StartRecord> = {}, atNs = 0): StartRecord {
  return {
    instanceId: 'i-7f3a9c',
    functionName: 'ledger',
    functionVersion: '3',
    path: 'forked',
    steps: [
      { name: 'fork', startNs: atNs + 500 * us, endNs: atNs + 1500 * us },
      { name: 'rootfs', startNs: atNs + 1500 * us, endNs: atNs + 1900 * us },
      { name: 'load', startNs: atNs + 1900 * us, endNs: atNs + 2500 * us },
    ],
    startNs: atNs + 500 * us,
    endNs: atNs + 2500 * us,
    isolation: { ...isolationHere(), apparmor: 'unavailable: not active in this kernel' },
    ...changes,
  };
}

export function hotCall(changes: Partial<CallRecord> = {}): CallRecord {
  return callRecord({ start: 'hot', startRecord: undefined, dispatchedNs: 1000 * us, ...changes });
}

export function logRecord(changes: Partial<LogRecord> = {}): LogRecord {
  return {
    timeMs: 1_700_000_000_000,
    functionName: 'hello',
    functionVersion: '1',
    instanceId: 'i-1',
    requestId: 'r-1',
    stream: 'stdout',
    text: 'Hello\n',
    ...changes,
  };
}
