/**
 * The zygotes of a host: the default tenant's, which lives as long as the host, one for each other
 * tenant, and one that executes. The others start when they are first needed, and end when no
 * function needs them any more, when no start has needed them for long, or to make place for
 * another. What they have forked lives on.
 */
import { HatchError } from '../base/errors.ts';
import { defaultTrustClass, trustKey, type TrustClass } from './trust-class.ts';
import { Zygote, type ZygoteOptions } from './zygote.ts';

export interface ZygotesOptions extends ZygoteOptions {
  /** At the same time, the default tenant's included. */
  zygotesMax: number;
  /** Without a start for so long, one ends. */
  idleMs: number;
}

/** Something an operator wants to know of. */
type Notify = (message: string) => void;

interface Member {
  /** Undefined while it starts. */
  zygote: Zygote | undefined;
  started: Promise<Zygote>;
  usedMs: number;
}

/** It forks nothing, and no start comes from its memory: all tenants may have the same. */
const executing = 'exec';

export class Zygotes {
  /** Another zygote serves the class of that key: what the old one forked has the old layout. */
  onReplaced: (trustKey: string) => void = () => undefined;
  /** Serves the default tenant, and makes the network namespaces of all. */
  readonly default: Zygote;
  readonly #options: ZygotesOptions;
  readonly #onNotice: Notify;
  /** Besides the default one. */
  readonly #members = new Map<string, Member>();
  readonly #ending = new Set<Promise<void>>();
  #stopped = false;

  /** Rejects with `host.start_failed` when the default one does not come up. */
  static async start(options: ZygotesOptions, onNotice: Notify): Promise<Zygotes> {
    const onReplaced = (): void => zygotes.onReplaced(trustKey(defaultTrustClass));
    const first = await Zygote.start(options, { onNotice, onReplaced });
    const zygotes = new Zygotes(options, onNotice, first);
    zygotes.#tellMode(first);
    return zygotes;
  }

  private constructor(options: ZygotesOptions, onNotice: Notify, first: Zygote) {
    this.#options = options;
    this.#onNotice = onNotice;
    this.default = first;
  }

  /** Those besides the default one that are up. */
  get others(): Zygote[] {
    return [...this.#members.values()].flatMap(({ zygote }) => zygote ?? []);
  }

  /** What those besides the default one take. */
  get memoryBytes(): number {
    return this.others.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
  }

  /** What a start takes before it has begun: a zygote's memory where there is none yet. */
  missingBytes(trust: TrustClass): number {
    const key = this.#keyOf(trust);
    return key === undefined || this.#members.has(key) ? 0 : this.default.memoryBytes;
  }

  /** Rejects with `host.start_failed`, or with `host.busy` when no place can be made for it. */
  async serving(trust: TrustClass): Promise<Zygote> {
    const key = this.#keyOf(trust);
    if (key === undefined) return this.default;
    const member = this.#members.get(key) ?? this.#startMember(key);
    member.usedMs = performance.now();
    return member.zygote ?? (await member.started);
  }

  /** Ends those that none of these classes needs, and those that were idle for long. */
  endUnused(needed: Iterable<TrustClass>): void {
    const keys = new Set([...needed].map((trust) => this.#keyOf(trust)));
    const idleSinceMs = performance.now() - this.#options.idleMs;
    for (const [key, { zygote, usedMs }] of this.#members)
      if (zygote !== undefined && (!keys.has(key) || usedMs < idleSinceMs)) this.#end(key, zygote);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.allSettled([...this.#members.values()].map(({ started }) => started));
    for (const [key, { zygote }] of this.#members) if (zygote !== undefined) this.#end(key, zygote);
    await Promise.all([...this.#ending, this.default.stop()]);
  }

  /** Undefined for the default one, which serves all where it does not fork. */
  #keyOf(trust: TrustClass): string | undefined {
    if (this.default.mode === 'exec') return undefined;
    if (trust.isolation === 'exec') return executing;
    return trust.tenant === defaultTrustClass.tenant ? undefined : trustKey(trust);
  }

  #startMember(key: string): Member {
    if (this.#stopped) throw new HatchError('host.draining', 'The host is stopping');
    this.#makePlace();
    const { setup } = this.#options;
    const options: ZygoteOptions =
      key === executing ? { ...this.#options, setup: { ...setup, fork: 'never' } } : this.#options;
    const member: Member = {
      zygote: undefined,
      started: Zygote.start(options, {
        onNotice: this.#onNotice,
        onReplaced: () => this.onReplaced(key),
      }),
      usedMs: performance.now(),
    };
    this.#members.set(key, member);
    member.started.then(
      (zygote) => {
        member.zygote = zygote;
        if (key !== executing) this.#tellMode(zygote);
        void zygote.fill();
      },
      () => this.#members.delete(key),
    );
    return member;
  }

  /** The one that no start has needed for longest goes. */
  #makePlace(): void {
    const { zygotesMax } = this.#options;
    if (this.#members.size + 1 < zygotesMax) return;
    const [oldest] = [...this.#members]
      .filter(([, { zygote }]) => zygote !== undefined)
      .sort(([, a], [, b]) => a.usedMs - b.usedMs);
    if (oldest?.[1].zygote === undefined)
      throw new HatchError(
        'host.busy',
        `All ${zygotesMax} zygotes of the host are in use: raise zygotesMax or try again later`,
      );
    this.#end(oldest[0], oldest[1].zygote);
  }

  #end(key: string, zygote: Zygote): void {
    this.#members.delete(key);
    const ended = zygote.stop().finally(() => this.#ending.delete(ended));
    this.#ending.add(ended);
  }

  #tellMode({ state }: Zygote): void {
    if (state.mode === 'exec')
      this.#onNotice(`Zygote does not fork (${state.reason}): instances boot, which is slow`);
  }
}
