/**
 * The egress policies that the firewall knows. A policy never changes: when a name gets other
 * addresses, there is another policy for the instances to come, and those that run keep theirs.
 */
import { lookup } from 'node:dns/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import {
  makePolicy,
  namesIn,
  parseEgressRule,
  type EgressPolicy,
  type EgressRule,
} from './egress.ts';
import type { FirewallDriver } from './firewall-driver.ts';

/** Older answers are asked for again, in the background until they are too old. */
const nameAgeMs = { fresh: 30_000, usable: 300_000 } as const;
const addressesPerNameMax = 64;
/** A policy that nobody has used for so long is removed. */
const unusedMs = 600_000;

export interface PoliciesOptions {
  driver: Pick<FirewallDriver, 'addPolicy' | 'removePolicy'>;
  nameservers: readonly string[];
  onNotice: (message: string) => void;
  /** All addresses of a name. Rejects when it has none. */
  resolveName?: (name: string) => Promise<string[]>;
}

/** A policy in use; `release` says that it is not any more. */
export interface HeldPolicy {
  policy: EgressPolicy;
  release(): void;
}

/** What one egress list comes to at present. */
interface Current {
  policyId: string;
  resolvedAtMs: number;
  refreshing: boolean;
}

interface Known {
  policy: EgressPolicy;
  users: number;
  usedAtMs: number;
  /** Settles when the firewall knows it. */
  added: Promise<void>;
}

export class Policies {
  readonly #options: PoliciesOptions;
  /** By egress list. */
  readonly #current = new Map<string, Current>();
  readonly #making = new Map<string, Promise<Current>>();
  /** By id. */
  readonly #known = new Map<string, Known>();
  #lastChange: Promise<unknown> = Promise.resolve();

  constructor(options: PoliciesOptions) {
    this.#options = options;
  }

  /**
   * At once when the policy is there and its names were asked for lately.
   * Rejects with `host.start_failed` when a name has no address.
   */
  async hold(egress: readonly string[]): Promise<HeldPolicy> {
    const key = JSON.stringify(egress);
    for (;;) {
      const current = this.#usable(key, egress) ?? (await this.#make(key, egress));
      const known = this.#known.get(current.policyId);
      // It was removed just now, for want of use.
      if (known === undefined) {
        this.#current.delete(key);
        continue;
      }
      known.users++;
      known.usedAtMs = performance.now();
      const release = (): void => void known.users--;
      return { policy: known.policy, release };
    }
  }

  /** Resolves when no change of the firewall is under way. */
  async idle(): Promise<void> {
    await this.#lastChange;
  }

  #usable(key: string, egress: readonly string[]): Current | undefined {
    const current = this.#current.get(key);
    if (current === undefined) return undefined;
    const ageMs = performance.now() - current.resolvedAtMs;
    if (ageMs > nameAgeMs.usable) return undefined;
    if (ageMs > nameAgeMs.fresh && !current.refreshing) {
      current.refreshing = true;
      void this.#make(key, egress).catch((error: unknown) => {
        current.refreshing = false;
        this.#options.onNotice(messageOf(error));
      });
    }
    return current;
  }

  #make(key: string, egress: readonly string[]): Promise<Current> {
    let making = this.#making.get(key);
    if (making === undefined) {
      making = this.#resolveAndAdd(egress)
        .then((current) => {
          this.#current.set(key, current);
          return current;
        })
        .finally(() => this.#making.delete(key));
      this.#making.set(key, making);
    }
    return making;
  }

  async #resolveAndAdd(egress: readonly string[]): Promise<Current> {
    const rules = egress.map(ruleOf);
    const names = namesIn(rules);
    const resolved = await Promise.all(
      names.map(async (name) => [name, await this.#resolve(name)] as const),
    );
    const policy = makePolicy({
      rules,
      addresses: new Map(resolved),
      nameservers: this.#options.nameservers,
    });
    await this.#add(policy);
    const resolvedAtMs = names.length === 0 ? Infinity : performance.now();
    return { policyId: policy.id, resolvedAtMs, refreshing: false };
  }

  async #resolve(name: string): Promise<string[]> {
    try {
      const addresses = await (this.#options.resolveName ?? lookupAll)(name);
      return [...new Set(addresses)].toSorted().slice(0, addressesPerNameMax);
    } catch (cause) {
      const message = `Cannot resolve "${name}" of network.egress: ${messageOf(cause)}`;
      throw new HatchError('host.start_failed', message, { cause });
    }
  }

  #add(policy: EgressPolicy): Promise<void> {
    const known = this.#known.get(policy.id);
    if (known !== undefined) return known.added;
    this.#removeUnused();
    const { driver } = this.#options;
    const added = this.#change(() => driver.addPolicy(policy));
    this.#known.set(policy.id, { policy, users: 0, usedAtMs: performance.now(), added });
    added.catch(() => this.#known.delete(policy.id));
    return added;
  }

  #removeUnused(): void {
    const { driver, onNotice } = this.#options;
    for (const [id, { policy, users, usedAtMs }] of this.#known) {
      if (users > 0 || performance.now() - usedAtMs < unusedMs) continue;
      this.#known.delete(id);
      this.#change(() => driver.removePolicy(policy)).catch((error: unknown) =>
        onNotice(`Cannot remove an egress policy: ${messageOf(error)}`),
      );
    }
  }

  /** One at a time, in the order of asking. */
  #change(run: () => Promise<void>): Promise<void> {
    const change = this.#lastChange.then(run);
    this.#lastChange = change.catch(() => undefined);
    return change;
  }
}

async function lookupAll(name: string): Promise<string[]> {
  return (await lookup(name, { all: true })).map(({ address }) => address);
}

function ruleOf(text: string): EgressRule {
  const rule = parseEgressRule(text);
  if (rule === undefined) throw new HatchError('internal.bug', `"${text}" is no egress rule`);
  return rule;
}
