/**
 * Copy-ups as OpenTelemetry metrics: cumulative counters and a histogram, by function and class of
 * path, sent to an OTLP/HTTP collector. The protocol's JSON is written here: a few instruments
 * whose values are at hand need no metrics SDK.
 */
import { messageOf } from '../base/errors.ts';
import { durationBoundsSeconds } from './copy-up-account.ts';
import type { CopyUpAccount, CopyUpSums, FunctionCopyUps } from './copy-up-account.ts';
import { addressOf } from './otlp.ts';

export interface MetricsExportOptions {
  /** Base address of the collector, or that of its traces. */
  endpoint: string;
  hostName: string | undefined;
  account: Pick<CopyUpAccount, 'functions'>;
  onError: (message: string) => void;
  intervalMs?: number;
  timeoutMs?: number;
}

/** Sends when there is something new. */
export class CopyUpMetricsExport {
  readonly #options: MetricsExportOptions;
  readonly #url: string;
  readonly #timer: NodeJS.Timeout;
  readonly #startedAtMs = Date.now();
  #changed = false;
  #sending: Promise<void> = Promise.resolve();
  #failed = false;

  constructor(options: MetricsExportOptions) {
    this.#options = options;
    this.#url = addressOf(options.endpoint, 'metrics');
    this.#timer = setInterval(() => this.#send(), options.intervalMs ?? 10_000).unref();
  }

  /** The account has new sums. */
  noteChange(): void {
    this.#changed = true;
  }

  /** Sends what is new, then resolves; never rejects. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#send();
    await this.#sending;
  }

  #send(): void {
    if (!this.#changed) return;
    this.#changed = false;
    this.#sending = this.#sending.then(() => this.#sendNow());
  }

  async #sendNow(): Promise<void> {
    const { account, hostName, onError, timeoutMs = 10_000 } = this.#options;
    const times = { startMs: this.#startedAtMs, nowMs: Date.now() };
    try {
      const response = await fetch(this.#url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(metricsOf(account.functions(), { hostName, ...times })),
        signal: AbortSignal.timeout(timeoutMs),
      });
      await response.body?.cancel();
      if (!response.ok) throw new Error(`it answered ${response.status}`);
      this.#failed = false;
    } catch (error) {
      // Sums are cumulative: the next ones have what these had. It is said once.
      this.#changed = true;
      if (!this.#failed) onError(`Cannot export metrics to "${this.#url}": ${messageOf(error)}`);
      this.#failed = true;
    }
  }
}

/** opentelemetry/proto/metrics/v1: AGGREGATION_TEMPORALITY_CUMULATIVE */
const cumulative = 2;

/** An ExportMetricsServiceRequest of OTLP. 64-bit integers are strings in its JSON. */
export function metricsOf(
  functions: readonly FunctionCopyUps[],
  context: { hostName: string | undefined; startMs: number; nowMs: number },
): object {
  const times = {
    startTimeUnixNano: `${context.startMs}000000`,
    timeUnixNano: `${context.nowMs}000000`,
  };
  const points = <T>(valueOf: (sums: CopyUpSums) => T) =>
    functions.flatMap(({ functionName, byClass }) =>
      [...byClass].map(([pathClass, sums]) => ({
        attributes: attributes({ 'faas.name': functionName, 'hatch.path.class': pathClass }),
        ...times,
        ...valueOf(sums),
      })),
    );
  const counter = (name: string, unit: string, valueOf: (sums: CopyUpSums) => number) => {
    const dataPoints = points((sums) => ({ asInt: String(valueOf(sums)) }));
    return {
      name,
      unit,
      sum: { aggregationTemporality: cumulative, isMonotonic: true, dataPoints },
    };
  };
  const resource = {
    'service.name': 'hatchery',
    ...(context.hostName === undefined ? {} : { 'host.name': context.hostName }),
  };
  const metrics = [
    counter('hatch.copy_up.files', '{file}', ({ files }) => files),
    counter('hatch.copy_up.copied', 'By', ({ bytesCopied }) => bytesCopied),
    counter('hatch.copy_up.changed', 'By', ({ bytesChanged }) => bytesChanged),
    {
      name: 'hatch.copy_up.duration',
      unit: 's',
      histogram: { aggregationTemporality: cumulative, dataPoints: points(histogramPoint) },
    },
  ];
  const scopeMetrics = [{ scope: { name: 'hatchery' }, metrics }];
  return { resourceMetrics: [{ resource: { attributes: attributes(resource) }, scopeMetrics }] };
}

function histogramPoint({ durationSeconds, durationCounts }: CopyUpSums) {
  return {
    count: String(durationCounts.reduce((sum, count) => sum + count, 0)),
    sum: durationSeconds,
    bucketCounts: durationCounts.map(String),
    explicitBounds: [...durationBoundsSeconds],
  };
}

function attributes(values: Record<string, string>): object[] {
  return Object.entries(values).map(([key, stringValue]) => ({ key, value: { stringValue } }));
}
