/**
 * How long to keep an instance that has become idle, learnt from how long it was idle before: the
 * hybrid policy of Shahrad et al., "Serverless in the Wild", USENIX ATC 2020, with its parameters.
 * Where an idle time of some length is sure to come, the instance ends at once and another one is
 * made shortly before the next call is expected.
 */
import { firstBinMs, IdleHistogram } from './idle-histogram.ts';

/** When an instance has to be there, counted from the end of the last call. */
export interface KeepAliveWindow {
  /** 0: it stays from the end of the call on. */
  fromMs: number;
  untilMs: number;
}

export class AdaptiveKeepAlive {
  readonly #histogram = new IdleHistogram();
  #lastMs: number | undefined;
  #lastButOneMs: number | undefined;
  #window: KeepAliveWindow | undefined;
  readonly #scale: number;

  /** All times of the policy are in minutes; a test may have shorter ones. */
  constructor({ minuteMs = 60_000 } = {}) {
    this.#scale = 60_000 / minuteMs;
  }

  /** A call has come after this time without one. */
  observe(afterMs: number): void {
    const idleMs = afterMs * this.#scale;
    this.#histogram.record(idleMs);
    this.#lastButOneMs = this.#lastMs;
    this.#lastMs = idleMs;
    this.#window = undefined;
  }

  get window(): KeepAliveWindow {
    return (this.#window ??= this.#decide());
  }

  #decide(): KeepAliveWindow {
    const { fromMs, untilMs } = this.#fromHistogram() ?? this.#fromPeriod() ?? fallback;
    return { fromMs: fromMs / this.#scale, untilMs: untilMs / this.#scale };
  }

  #fromHistogram(): KeepAliveWindow | undefined {
    if (!this.#histogram.isTelling) return undefined;
    const { headMs, tailMs } = this.#histogram.range({ head: 0.05, tail: 0.99 });
    // Of the longest window too, a part has to be left for what comes after the head.
    const marginMs = Math.min(headMs * histogramMargin, windowMsMax / 4);
    const fromMs = worthEnding(headMs - marginMs);
    return { fromMs, untilMs: Math.min(tailMs * (1 + histogramMargin), fromMs + windowMsMax) };
  }

  /**
   * Timers that are rarer than the histogram reaches, or have not fired often enough for it, show
   * themselves by two equal idle times. The paper fits an ARIMA model here, with the same margin.
   */
  #fromPeriod(): KeepAliveWindow | undefined {
    const [a, b] = [this.#lastMs, this.#lastButOneMs];
    if (a === undefined || b === undefined) return undefined;
    const periodMs = (a + b) / 2;
    if (periodMs < firstBinMs || Math.abs(a - b) > periodTolerance * periodMs) return undefined;
    const marginMs = Math.min(periodMs * periodMargin, windowMsMax / 2);
    return { fromMs: worthEnding(periodMs - marginMs), untilMs: periodMs + marginMs };
  }
}

/** Below the resolution of the histogram an end and a new start would be guesswork. */
function worthEnding(fromMs: number): number {
  return fromMs < firstBinMs ? 0 : fromMs;
}

const histogramMargin = 0.1;
const periodMargin = 0.15;
const periodTolerance = 0.1;
/**
 * The longest fixed time in wide use, Azure's. The tail of a histogram can be hours long for the
 * sake of one call in a hundred; our starts of a few milliseconds are not worth that memory.
 */
const windowMsMax = 20 * 60_000;
/** What OpenWhisk keeps everything for, and the middle of what the large providers do. */
const fallback: KeepAliveWindow = { fromMs: 0, untilMs: 10 * 60_000 };
