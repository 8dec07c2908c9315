/**
 * The latest output of the functions of this host. All share one budget of bytes; what is over it
 * is taken from the function that holds most, so that a noisy one does not silence the others.
 */
import type { LogRecord } from '../base/channels.ts';

export interface LogQuery {
  functionName: string;
  requestId?: string | undefined;
  /** The newest so many records. */
  limit?: number;
}

const lineLengthMaxDefault = 16 * 1024;
// With its JSON around it a record must fit into a NATS message.
const textLengthMaxDefault = 128 * 1024;
const recordBytes = 256;

export class LogStore {
  readonly #bytesMax: number;
  readonly #lineLengthMax: number;
  readonly #textLengthMax: number;
  readonly #byFunction = new Map<string, FunctionLog>();
  #bytes = 0;

  /** Lengths are in UTF-16 units; `bytesMax` bounds an estimate of the memory held. */
  constructor(options: { bytesMax: number; lineLengthMax?: number; textLengthMax?: number }) {
    this.#bytesMax = options.bytesMax;
    this.#lineLengthMax = options.lineLengthMax ?? lineLengthMaxDefault;
    this.#textLengthMax = options.textLengthMax ?? textLengthMaxDefault;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Keeps a record, with lines that are too long cut; returns it as kept. */
  add(record: LogRecord): LogRecord {
    const text = cut(record.text, this.#lineLengthMax, this.#textLengthMax);
    const kept = text === record.text ? record : { ...record, text };
    let log = this.#byFunction.get(record.functionName);
    if (log === undefined) {
      log = new FunctionLog();
      this.#byFunction.set(record.functionName, log);
    }
    this.#bytes += log.push(kept);
    if (this.#bytes > this.#bytesMax) this.#shrink();
    return kept;
  }

  /** Records of a function, or of one call of it, oldest first. */
  find({ functionName, requestId, limit = Infinity }: LogQuery): LogRecord[] {
    const records = this.#byFunction.get(functionName)?.records() ?? [];
    const wanted =
      requestId === undefined
        ? records
        : records.filter((record) => record.requestId === requestId);
    return wanted.slice(Math.max(0, wanted.length - limit));
  }

  /** Frees a share more than needed, so that the search for the largest is seldom. */
  #shrink(): void {
    const target = this.#bytesMax * 0.95;
    while (this.#bytes > target && this.#byFunction.size > 0) {
      const [name, largest] = this.#largest();
      const share = largest.bytes * 0.95;
      while (largest.bytes > share && this.#bytes > target) this.#bytes -= largest.dropOldest();
      if (largest.bytes === 0) this.#byFunction.delete(name);
    }
  }

  #largest(): [string, FunctionLog] {
    return [...this.#byFunction].reduce((a, b) => (b[1].bytes > a[1].bytes ? b : a));
  }
}

/** A queue of records that knows its size. */
class FunctionLog {
  #records: (LogRecord | undefined)[] = [];
  #first = 0;
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  push(record: LogRecord): number {
    this.#records.push(record);
    const bytes = bytesOf(record);
    this.#bytes += bytes;
    return bytes;
  }

  records(): LogRecord[] {
    return this.#records.slice(this.#first).filter((record) => record !== undefined);
  }

  /** Returns how many bytes that freed. */
  dropOldest(): number {
    const oldest = this.#records[this.#first];
    if (oldest === undefined) return 0;
    // Its place is given up only now and then, but what was in it is free to be collected.
    this.#records[this.#first++] = undefined;
    if (this.#first > 1024 && this.#first > this.#records.length / 2) {
      this.#records = this.#records.slice(this.#first);
      this.#first = 0;
    }
    const bytes = bytesOf(oldest);
    this.#bytes -= bytes;
    return bytes;
  }
}

function bytesOf({ text }: LogRecord): number {
  return recordBytes + Buffer.byteLength(text);
}

function cut(text: string, lineLengthMax: number, textLengthMax: number): string {
  if (text.length <= lineLengthMax) return text;
  const lines = text.split('\n').map((line) => cutLine(line, lineLengthMax));
  return cutLine(lines.join('\n'), textLengthMax);
}

/** Says what is missing, so that nobody takes the cut for the function's own output. */
function cutLine(line: string, lengthMax: number): string {
  if (line.length <= lengthMax) return line;
  // Half of a surrogate pair is no character.
  const splitsPair = /[\uD800-\uDBFF]/.test(line.charAt(lengthMax - 1));
  const end = splitsPair ? lengthMax - 1 : lengthMax;
  return `${line.slice(0, end)}… [${line.length - end} more characters cut]`;
}
