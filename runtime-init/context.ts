/** The second argument of a handler. */
import type { CallMetadata, CancelCause, Specialisation } from '../host/protocol/invoke.ts';

export class CallContext {
  readonly requestId: string;
  /** The same, under AWS Lambda's name. */
  readonly awsRequestId: string;
  readonly functionName: string;
  readonly functionVersion: string;
  readonly memoryLimitInMB: number;
  readonly subject: string;
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** 1 for the first delivery. */
  readonly attempt: number;
  readonly #deadlineMs: number;
  // Made when first asked for: most handlers never look at it.
  #controller: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;
  #abortedBy: DOMException | undefined;

  constructor(specialisation: Specialisation, metadata: CallMetadata) {
    this.requestId = metadata.requestId;
    this.awsRequestId = metadata.requestId;
    this.functionName = specialisation.functionName;
    this.functionVersion = specialisation.functionVersion;
    this.memoryLimitInMB = specialisation.memoryMb;
    this.subject = metadata.subject;
    this.headers = metadata.headers ?? {};
    this.attempt = metadata.attempt;
    this.#deadlineMs = performance.now() + metadata.timeoutMs;
  }

  getRemainingTimeInMillis(): number {
    return Math.max(0, Math.round(this.#deadlineMs - performance.now()));
  }

  /** Aborted when the call's time is up, or its caller has cancelled it. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#abortedBy !== undefined) this.#controller.abort(this.#abortedBy);
      else {
        const remainingMs = Math.max(0, this.#deadlineMs - performance.now());
        this.#timer = setTimeout(() => this.abort('timeout'), remainingMs);
      }
    }
    return this.#controller.signal;
  }

  /** Whether its signal was, or would have been, aborted. */
  get timedOut(): boolean {
    return this.#abortedBy !== undefined || performance.now() >= this.#deadlineMs;
  }

  /** The first cause stays. */
  abort(cause: CancelCause): void {
    this.#abortedBy ??=
      cause === 'caller'
        ? new DOMException('The caller has cancelled the call', 'AbortError')
        : new DOMException('The call ran out of time', 'TimeoutError');
    this.#controller?.abort(this.#abortedBy);
  }

  /** The call has ended: its timer goes with it. */
  end(): void {
    clearTimeout(this.#timer);
  }
}
