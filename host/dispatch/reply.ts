/** The bytes of a reply: its headers, and the JSON envelope of an error. */
import type { MsgHdrs } from '@nats-io/nats-core';
import type { StartPath } from '../base/channels.ts';
import type { HatchError } from '../base/errors.ts';

/** The body of every reply that is an error. */
export interface ErrorEnvelope {
  error: {
    code: string;
    message: string;
    requestId: string;
    /** Facts for programs: `limitBytes`, `peakBytes` and `scope` of an out-of-memory, … */
    details?: Record<string, unknown>;
  };
}

/** What a reply says about its call; `start` is undefined when no instance was reached. */
export interface ReplyFacts {
  requestId: string;
  start: StartPath | undefined;
  durationUs: number;
}

/** NATS headers whose bytes are known already. */
export interface EncodedHeaders {
  bytes: Uint8Array;
  /** For `publish`. */
  headers: MsgHdrs;
}

export function replyHeaders(facts: ReplyFacts): EncodedHeaders {
  return encoded(`${factLines(facts)}\r\n`);
}

export function errorReply(
  error: HatchError,
  facts: ReplyFacts,
): { headers: MsgHdrs; payload: Uint8Array } {
  const retry = retryAfterMs(error);
  const lines = [
    factLines(facts),
    `Nats-Service-Error: ${headerText(error.message)}\r\n`,
    `Nats-Service-Error-Code: ${error.status}\r\n`,
    retry === undefined ? '' : `Retry-After-Ms: ${retry}\r\n`,
    '\r\n',
  ];
  return {
    headers: encoded(lines.join('')).headers,
    payload: errorEnvelope(error, facts.requestId),
  };
}

/** The headers that mark a reply as an error, as NATS micro services have them. */
export function setErrorHeaders(headers: MsgHdrs, error: HatchError): void {
  headers.set('Nats-Service-Error', headerText(error.message));
  headers.set('Nats-Service-Error-Code', String(error.status));
}

export function errorEnvelope(error: HatchError, requestId: string): Uint8Array {
  const body: ErrorEnvelope = {
    error: { code: error.code, message: error.message.slice(0, messageCharsMax), requestId },
  };
  const details = JSON.stringify(error.details);
  // Details that do not fit are left out: the message says what matters.
  if (details !== '{}' && details.length <= detailsCharsMax) body.error.details = error.details;
  return Buffer.from(JSON.stringify(body));
}

const messageCharsMax = 8192;
const headerCharsMax = 512;
const detailsCharsMax = 65_536;
const retryAfterMsDefault = 100;

function factLines({ requestId, start, durationUs }: ReplyFacts): string {
  const startLine = start === undefined ? '' : `Hatch-Start: ${start}\r\n`;
  const durationLine = `Hatch-Duration-Us: ${durationUs}\r\n`;
  return `NATS/1.0\r\nHatch-Request-Id: ${requestId}\r\n${startLine}${durationLine}`;
}

/**
 * The client asks a headers object for one thing only when it publishes: its bytes. Making them in
 * one piece costs a sixth of three `set` calls, on every call of a function; and the size of a
 * reply is known before it is sent. The tests against a real server read these headers back.
 */
function encoded(text: string): EncodedHeaders {
  const bytes = Buffer.from(text);
  return { bytes, headers: new FixedHeaders(bytes) as unknown as MsgHdrs };
}

class FixedHeaders {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  encode(): Uint8Array {
    return this.#bytes;
  }
}

/** How long a caller should wait before it tries again, for errors that pass by themselves. */
function retryAfterMs(error: HatchError): number | undefined {
  if (error.code !== 'host.busy' && error.code !== 'host.draining') return undefined;
  const known = error.details['retryAfterMs'];
  return typeof known === 'number' ? Math.ceil(known) : retryAfterMsDefault;
}

/** A message on one line: whatever could end a header line becomes a space. */
function headerText(message: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what this removes
  const oneLine = message.replaceAll(/[\u0000-\u001f\u007f]+/g, ' ').trim();
  return oneLine.length > headerCharsMax ? `${oneLine.slice(0, headerCharsMax - 1)}…` : oneLine;
}
