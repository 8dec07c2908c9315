/**
 * What is kept and passed on of that which happens in the host. The code that does the work knows
 * nothing of this folder: it publishes records, and here they are stored, shown and exported.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { channels } from '../base/channels.ts';
import type { CallRecord, LogRecord } from '../base/channels.ts';
import { CopyUpAccount } from './copy-up-account.ts';
import { CopyUpMetricsExport } from './copy-up-metrics.ts';
import { LogStore } from './log-store.ts';
import { startTraceExport } from './otlp.ts';
import { TraceStore } from './trace-store.ts';

export interface TelemetryOptions {
  /** Base address of an OTLP/HTTP collector, `http://host:4318`; without one nothing is exported. */
  otlpEndpoint?: string;
  /** Shown to the collector as `host.name`. */
  hostName?: string;
  /** Calls whose records are kept. */
  traceCountMax: number;
  /** Bytes of function output that are kept, all functions together. */
  logBytesMax: number;
  /** Gets each log record as JSON, for subject `hatch.logs.<function>.<instance>`. */
  publish?: (subject: string, json: string) => void;
  /** Gets what went wrong in here, seldom: telemetry never throws at those it watches. */
  onError?: (message: string) => void;
}

export interface Telemetry {
  readonly traces: Pick<TraceStore, 'find' | 'newest'>;
  readonly logs: Pick<LogStore, 'find'>;
  /** Since the start, by function. */
  readonly copyUps: Pick<CopyUpAccount, 'functions'>;
  /** Exports what is waiting, then resolves; never rejects. */
  stop(): Promise<void>;
}

/** Watches this process until it is stopped. */
export function startTelemetry(options: TelemetryOptions): Telemetry {
  const { publish, onError = () => undefined } = options;
  const traces = new TraceStore({ countMax: options.traceCountMax });
  const logs = new LogStore({ bytesMax: options.logBytesMax });
  const copyUps = new CopyUpAccount();
  const { otlpEndpoint: endpoint, hostName } = options;
  const exports =
    endpoint === undefined
      ? undefined
      : {
          traces: startTraceExport({ endpoint, hostName, onError }),
          metrics: new CopyUpMetricsExport({ endpoint, hostName, account: copyUps, onError }),
        };

  const onCall = (message: unknown): void => {
    const record = message as CallRecord;
    traces.add(record);
    exports?.traces.add(record);
    if (copyUps.add(record)) exports?.metrics.noteChange();
  };
  const onLog = (message: unknown): void => {
    const record = logs.add(message as LogRecord);
    if (publish === undefined) return;
    try {
      const subject = `hatch.logs.${record.functionName}.${record.instanceId}`;
      publish(subject, JSON.stringify(record));
    } catch (error) {
      onError(`Cannot publish the output of function "${record.functionName}": ${String(error)}`);
    }
  };
  subscribe(channels.callEnd.name, onCall);
  subscribe(channels.log.name, onLog);

  return {
    traces,
    logs,
    copyUps,
    stop: async () => {
      unsubscribe(channels.callEnd.name, onCall);
      unsubscribe(channels.log.name, onLog);
      await Promise.all([exports?.traces.stop(), exports?.metrics.stop()]);
    },
  };
}
