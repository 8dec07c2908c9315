/**
 * Sends calls as spans to an OTLP/HTTP collector: in batches, one at a time, from a queue that
 * never grows past its bound. A collector that is away costs traces, never calls.
 */
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace';
import type { CallRecord } from '../base/channels.ts';
import { nowNs } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import { spansOf } from './spans.ts';

export interface TraceExportOptions {
  /** Base address of the collector, or the full address ending in `/v1/traces`. */
  endpoint: string;
  hostName: string | undefined;
  onError: (message: string) => void;
  /** Calls that may wait. */
  queueLengthMax?: number;
  batchIntervalMs?: number;
  /** Least time between two reports of failure. */
  reportIntervalMs?: number;
  timeoutMs?: number;
}

export interface TraceExport {
  /** Costs the caller a push onto an array. */
  add(record: CallRecord): void;
  readonly counts: Readonly<ExportCounts>;
  /** Sends what is waiting, then resolves; never rejects. */
  stop(): Promise<void>;
}

/** In calls. */
export interface ExportCounts {
  exported: number;
  /** Given up: the queue was full, or the collector did not take them. */
  dropped: number;
}

const batchCallsMax = 256;

export function startTraceExport(options: TraceExportOptions): TraceExport {
  return new OtlpExport(options);
}

class OtlpExport implements TraceExport {
  readonly counts: ExportCounts = { exported: 0, dropped: 0 };
  readonly #options: TraceExportOptions;
  readonly #exporter: SpanExporter;
  readonly #resource;
  readonly #queueLengthMax: number;
  readonly #timer: NodeJS.Timeout;
  readonly #clock = new EpochClock();
  #queue: CallRecord[] = [];
  #sending: Promise<void> | undefined;
  #stopped = false;
  #unreported = 0;
  #reportedAtMs = -Infinity;

  constructor(options: TraceExportOptions) {
    this.#options = options;
    this.#queueLengthMax = options.queueLengthMax ?? 4096;
    const url = addressOf(options.endpoint, 'traces');
    this.#exporter = new OTLPTraceExporter({ url, timeoutMillis: options.timeoutMs ?? 10_000 });
    this.#resource = resourceFromAttributes({
      'service.name': 'hatchery',
      ...(options.hostName === undefined ? {} : { 'host.name': options.hostName }),
    });
    this.#timer = setInterval(() => this.#start(), options.batchIntervalMs ?? 1000);
    // Waiting traces alone are no reason to stay; stop() sends them.
    this.#timer.unref();
  }

  add(record: CallRecord): void {
    if (this.#stopped) return;
    if (this.#queue.length < this.#queueLengthMax) this.#queue.push(record);
    else this.#drop(1, 'the queue is full');
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    this.#start();
    await this.#sending;
    try {
      await this.#exporter.shutdown();
    } catch (error) {
      this.#options.onError(`Cannot close the export of traces: ${messageOf(error)}`);
    }
  }

  #start(): void {
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, batchCallsMax);
      try {
        await this.#send(batch);
        this.counts.exported += batch.length;
      } catch (error) {
        this.#drop(batch.length, messageOf(error));
      }
    }
  }

  #send(batch: CallRecord[]): Promise<void> {
    const source = { resource: this.#resource, epochOffsetNs: this.#clock.offsetNs() };
    const spans: ReadableSpan[] = batch.flatMap((record) => spansOf(record, source));
    if (spans.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#exporter.export(spans, ({ code, error }) => {
        if (code === 0) resolve();
        else reject(error ?? new Error('the exporter gave no reason'));
      });
    });
  }

  #drop(count: number, reason: string): void {
    this.counts.dropped += count;
    this.#unreported += count;
    const nowMs = performance.now();
    if (nowMs - this.#reportedAtMs < (this.#options.reportIntervalMs ?? 60_000)) return;
    this.#reportedAtMs = nowMs;
    const { endpoint, onError } = this.#options;
    onError(`Cannot export the traces of ${this.#unreported} calls to "${endpoint}": ${reason}`);
    this.#unreported = 0;
  }
}

/** As the OTLP specification has it: signals have their paths below the base address. */
export function addressOf(endpoint: string, signal: 'traces' | 'metrics'): string {
  const base = endpoint.replace(/\/+$/, '').replace(/\/v1\/traces$/, '');
  return `${base}/v1/${signal}`;
}

const clockStepNs = 50_000_000n;

/** The distance from CLOCK_MONOTONIC to the time of day: kept until someone sets the clock. */
class EpochClock {
  #offsetNs = measureOffsetNs();

  offsetNs(): bigint {
    const measured = measureOffsetNs();
    const moved = measured - this.#offsetNs;
    if (moved > clockStepNs || moved < -clockStepNs) this.#offsetNs = measured;
    return this.#offsetNs;
  }
}

function measureOffsetNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n - BigInt(nowNs());
}
