/**
 * Publishes what is known of a call after its reply was sent, copy-ups included.
 *
 * Looking for copy-ups reads a directory, so it waits until the instance has been quiet for a
 * moment. When the next call comes sooner, the earlier record goes out without copy-ups and the
 * look after the later call finds those of both: calls without a gap share one account.
 *
 * Records go out together, every few milliseconds: what listens to them takes as long as the rest
 * of the host's part in a short call, and would do so while an instance or a caller waits for the
 * processor that the host has.
 */
import { channels } from '../base/channels.ts';
import { nowNs, nsPerMs } from '../base/clock.ts';
import type { CallRecord, CopyUp } from '../base/channels.ts';
import type { Instance } from './instance-pool.ts';

/** So many are published at once, whatever the time. */
const togetherMax = 256;

export class CallRecorder {
  /** Ended calls whose instance was not looked at yet; in order of their end. */
  readonly #unlooked = new Map<Instance, CallRecord>();
  /** Ended calls that need no look, to be published. */
  #complete: CallRecord[] = [];
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  readonly #delayMs: number;

  constructor(options: { delayMs: number } = { delayMs: 5 }) {
    this.#delayMs = options.delayMs;
  }

  /** A call begins on this instance: the one before it leaves its account to this one. */
  begin(instance: Instance): void {
    if (this.#unlooked.size === 0) return;
    const record = this.#unlooked.get(instance);
    if (record === undefined) return;
    this.#unlooked.delete(instance);
    this.#complete.push(record);
    if (this.#complete.length >= togetherMax) this.#publishComplete();
  }

  /** A call ended on this instance, which lives on. */
  end(instance: Instance, record: CallRecord): void {
    // Of calls that ran at the same time, the later takes the account.
    this.begin(instance);
    this.#unlooked.set(instance, record);
    this.#timer ??= setTimeout(() => this.#lookAtQuiet(), this.#delayMs);
  }

  /** A call ended and its instance is about to be destroyed: look now, then publish. */
  async endNow(instance: Instance, record: CallRecord): Promise<void> {
    record.copyUps = await copyUpsOf(instance);
    channels.callEnd.publish(record);
  }

  /** Publishes what is still waiting. */
  async flush(): Promise<void> {
    await this.#looking;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#publishComplete();
    await this.#lookAtAll(Infinity);
  }

  #publishComplete(): void {
    const records = this.#complete;
    this.#complete = [];
    for (const record of records) channels.callEnd.publish(record);
  }

  #lookAtQuiet(): void {
    this.#publishComplete();
    const quietSinceNs = nowNs() - this.#delayMs * nsPerMs;
    this.#looking = this.#lookAtAll(quietSinceNs).finally(() => {
      this.#timer = undefined;
      if (this.#unlooked.size + this.#complete.length > 0) {
        this.#timer = setTimeout(() => this.#lookAtQuiet(), this.#delayMs);
      }
    });
  }

  /** One after the other: nobody waits for it, and the disk serves calls too. */
  async #lookAtAll(endedBeforeNs: number): Promise<void> {
    for (const [instance, record] of this.#unlooked) {
      if (record.endNs > endedBeforeNs) return;
      this.#unlooked.delete(instance);
      record.copyUps = await copyUpsOf(instance);
      channels.callEnd.publish(record);
    }
  }
}

/** An instance that is gone cannot be looked at any more; that is no news here. */
async function copyUpsOf(instance: Instance): Promise<CopyUp[]> {
  try {
    return await instance.copyUps();
  } catch {
    return [];
  }
}
