/** What a handler is given and may return; import the types of it with `import type`. */

export interface HandlerContext {
  readonly requestId: string;
  /** The same as `requestId`, for code written for AWS Lambda. */
  readonly awsRequestId: string;
  readonly functionName: string;
  readonly functionVersion: string;
  readonly memoryLimitInMB: number;
  getRemainingTimeInMillis(): number;
  /**
   * Aborts with a TimeoutError when the time of the call is over, with an AbortError when its
   * caller has cancelled it. A call that still runs `graceMs` later ends with its instance.
   */
  readonly signal: AbortSignal;
  /** The NATS subject of the call. */
  readonly subject: string;
  /** Of the message; a header can come several times. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** 1 for the first delivery of a message. */
  readonly attempt: number;
}

/**
 * JSON payloads arrive parsed, others as Uint8Array, an empty payload as undefined. Results go
 * back in the same way.
 */
export type Handler<Event = unknown, Result = unknown> = (
  event: Event,
  context: HandlerContext,
) => Result | Promise<Result>;
