/** What a caller may say in the headers of a call. */
import type { Msg, MsgHdrs } from '@nats-io/nats-core';
import { HatchError, messageOf } from '../base/errors.ts';

export interface CallHeaders {
  /** Every header with all its values, for the function; undefined when there are none. */
  all: Record<string, string[]> | undefined;
  /** The caller's own id, when it is one. */
  requestId: string | undefined;
  /** W3C trace context. */
  traceparent: string | undefined;
  timeoutMs: number | undefined;
  /** Why the call cannot be made. */
  invalid: HatchError | undefined;
}

const noCallHeaders: CallHeaders = {
  all: undefined,
  requestId: undefined,
  traceparent: undefined,
  timeoutMs: undefined,
  invalid: undefined,
};

/**
 * Never throws, whatever a stranger has sent: what cannot be read fails the call. The client reads
 * headers in a time that grows with the square of their number, so there may not be many.
 */
export function callHeadersOf(message: Msg): CallHeaders {
  const bytes = headerBytesOf(message);
  if (bytes === 0) return noCallHeaders;
  if (bytes > headerBytesMax) {
    const problem = `Cannot take ${bytes} bytes of headers: send at most ${headerBytesMax}`;
    return { ...noCallHeaders, invalid: new HatchError('request.too_large', problem) };
  }
  try {
    const { headers } = message;
    return headers === undefined ? noCallHeaders : readCallHeaders(headers);
  } catch (cause) {
    const problem = `Cannot read the headers: ${messageOf(cause)}`;
    return { ...noCallHeaders, invalid: new HatchError('request.invalid', problem, { cause }) };
  }
}

/** As Node.js allows in HTTP. */
const headerBytesMax = 16 * 1024;

/** Without reading them. The size of a message is that of its subjects, headers and payload. */
function headerBytesOf(message: Msg & { size?: () => number }): number {
  const { subject, reply = '', data } = message;
  const bytes = message.size?.() ?? Infinity;
  return bytes - subject.length - reply.length - data.length;
}

/** Names are matched in any case, as HTTP does; an id that is none is replaced by one of ours. */
function readCallHeaders(headers: MsgHdrs): CallHeaders {
  // A record without prototype: a header named `__proto__` is a name like any other.
  const all = Object.create(null) as Record<string, string[]>;
  const call: CallHeaders = { ...noCallHeaders, all };
  for (const [name, values] of headers) {
    all[name] = values;
    const value = values[0] ?? '';
    switch (name.toLowerCase()) {
      case 'hatch-request-id':
        if (requestIdPattern.test(value)) call.requestId = value;
        break;
      case 'traceparent':
        call.traceparent = value;
        break;
      case 'hatch-timeout-ms':
        readTimeout(call, value);
        break;
      default:
    }
  }
  return call;
}

/** Fits a header, a subject token, a file name and a URL. */
const requestIdPattern = /^[A-Za-z0-9_-]{1,64}$/;

function readTimeout(call: CallHeaders, value: string): void {
  const timeoutMs = Number(value);
  if (Number.isInteger(timeoutMs) && timeoutMs > 0) call.timeoutMs = timeoutMs;
  else {
    const message = `Cannot use Hatch-Timeout-Ms "${value}": it must be whole milliseconds above 0`;
    call.invalid = new HatchError('request.invalid', message);
  }
}
