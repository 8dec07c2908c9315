/**
 * The records of the latest calls, by request id. It is on the path of every call, so it keeps the
 * record as it is and makes nothing of it; a ring, because a Map as a queue must skip what it has
 * forgotten each time its oldest entry is looked for.
 */
import type { CallRecord } from '../base/channels.ts';

const bytesMaxDefault = 64 * 1024 * 1024;

export class TraceStore {
  readonly #countMax: number;
  readonly #bytesMax: number;
  readonly #ring: (CallRecord | undefined)[] = [];
  readonly #byRequest = new Map<string, CallRecord>();
  #next = 0;
  #count = 0;
  #bytes = 0;

  /** `bytesMax` bounds an estimate of the memory that the records hold. */
  constructor(options: { countMax: number; bytesMax?: number }) {
    this.#countMax = options.countMax;
    this.#bytesMax = options.bytesMax ?? bytesMaxDefault;
  }

  get count(): number {
    return this.#count;
  }

  add(record: CallRecord): void {
    if (this.#count === this.#countMax) this.#dropOldest();
    this.#ring[this.#next] = record;
    this.#next = (this.#next + 1) % this.#countMax;
    this.#count++;
    // A redelivered call keeps its request id: its last attempt is the one to be found.
    this.#byRequest.set(record.requestId, record);
    this.#bytes += bytesOf(record);
    while (this.#bytes > this.#bytesMax && this.#count > 1) this.#dropOldest();
  }

  /** The call with this request id; undefined when it has not ended or is too long ago. */
  find(requestId: string): CallRecord | undefined {
    return this.#byRequest.get(requestId);
  }

  /** The latest calls, newest first. */
  newest(limit: number): CallRecord[] {
    const records: CallRecord[] = [];
    for (let age = 1; age <= Math.min(limit, this.#count); age++) {
      const record = this.#ring[(this.#next - age + this.#countMax) % this.#countMax];
      if (record !== undefined) records.push(record);
    }
    return records;
  }

  #dropOldest(): void {
    const at = (this.#next - this.#count + this.#countMax) % this.#countMax;
    const oldest = this.#ring[at];
    if (oldest === undefined) return;
    this.#ring[at] = undefined;
    this.#count--;
    this.#bytes -= bytesOf(oldest);
    if (this.#byRequest.get(oldest.requestId) === oldest) this.#byRequest.delete(oldest.requestId);
  }
}

/** The record's own fields, and those of its parts that a function can make many or large. */
function bytesOf({ startRecord, error, copyUps, traceparent }: CallRecord): number {
  let bytes = 512 + 128 * (startRecord?.steps.length ?? 0);
  bytes += 2 * ((error?.message.length ?? 0) + (traceparent?.length ?? 0));
  for (const { path } of copyUps) bytes += 192 + 2 * path.length;
  return bytes;
}
