/**
 * Secrets by id (tenant and name), for all hosts of a NATS system: sealed boxes in a KV bucket of
 * their own, which only hosts read. They are opened when an instance starts, and not before.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import { z } from 'zod';
import { HatchError, messageOf } from '../base/errors.ts';
import { RecordStore, type Following } from './record-store.ts';
import {
  openSealedBox,
  sealedBoxSchema,
  secretOf,
  sealSecret,
  secretBytesMax,
  type SealedBox,
} from './secret-box.ts';
import type { SecretKeys } from './secret-keys.ts';

export interface StoredSecret {
  name: string;
  setAtMs: number;
  keyId: string;
}

const bucketName = 'hatch_secrets';

const recordSchema = z.object({ box: sealedBoxSchema, setAtMs: z.number() });
type SecretRecord = z.output<typeof recordSchema> & { revision: number };

export class SecretStore {
  readonly #records: RecordStore;
  readonly #keys: SecretKeys;
  readonly #closing = new AbortController();
  readonly #secrets = new Map<string, SecretRecord>();
  #following: Following | undefined;

  private constructor(records: RecordStore, keys: SecretKeys) {
    this.#records = records;
    this.#keys = keys;
  }

  /** Makes the bucket when it is missing. @throws HatchError `host.nats_unavailable` */
  static async open(connection: NatsConnection, keys: SecretKeys): Promise<SecretStore> {
    return new SecretStore(await RecordStore.open(connection, bucketName), keys);
  }

  /** Resolves when all secrets there are now are known; then `onChange` hears of each change. */
  async watch({
    onChange,
    onError,
  }: {
    onChange: (name: string) => void;
    onError: (error: HatchError) => void;
  }): Promise<void> {
    let seen = new Set<string>();
    let ready = false;
    const forget = (name: string): void => {
      if (this.#secrets.delete(name)) onChange(name);
    };
    const watcher = {
      onBegin: () => (seen = new Set()),
      onRecord: ({ key, json, revision }: { key: string; json: unknown; revision: number }) => {
        if (json === undefined) return forget(key);
        seen.add(key);
        if (this.#keep(key, json, revision) && ready) onChange(key);
      },
      onReady: () => {
        // What was removed while nobody watched.
        for (const name of this.#secrets.keys()) if (!seen.has(name)) forget(name);
        ready = true;
      },
    };
    this.#following = this.#records.follow(watcher, { signal: this.#closing.signal, onError });
    await this.#following.ready;
  }

  /** Ends the watch. The connection is the caller's. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#following?.ended;
  }

  /** All, from the server, by name, without their values. */
  async list(): Promise<StoredSecret[]> {
    const records = await this.#records.readAll('>');
    return records
      .map(({ key: name, json }) => ({ name, ...recordSchema.parse(json) }))
      .map(({ name, setAtMs, box }) => ({ name, setAtMs, keyId: box.keyId }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * Keeps a box that was sealed for our key. Instances that run keep the value they have.
   * @throws HatchError `request.invalid` when it cannot be opened or is too large
   */
  async put(name: string, box: SealedBox): Promise<{ isNew: boolean }> {
    const value = this.#openBox(name, box);
    const { length } = value;
    value.fill(0);
    if (length === 0 || length > secretBytesMax) {
      throw new HatchError(
        'request.invalid',
        `Cannot keep secret "${name}" of ${length} bytes: it may have 1 to ${secretBytesMax}`,
      );
    }
    return { isNew: await this.#write(name, box) };
  }

  /** @throws HatchError `secret.not_found` */
  async remove(name: string): Promise<void> {
    if ((await this.#records.get(name)) === undefined) throw secretNotFound([name]);
    await this.#records.delete(name);
  }

  /** Seals each secret anew with the first of our keys; returns how many were of another key. */
  async reseal(): Promise<number> {
    const { publicKey } = this.#keys;
    const [newest] = this.#keys.ids;
    let count = 0;
    for (const { key: name, json } of await this.#records.readAll('>')) {
      const { box } = recordSchema.parse(json);
      if (box.keyId === newest) continue;
      const value = this.#openBox(name, box);
      await this.#write(name, sealSecret({ publicKey, name, value }));
      value.fill(0);
      count++;
    }
    return count;
  }

  /** @throws HatchError `secret.not_found` when one of them is not set, on no host */
  async require(names: string[]): Promise<void> {
    const missing = names.filter((name) => !this.#secrets.has(name));
    for (const name of missing) {
      // It may have been set on another host a moment ago.
      const record = await this.#records.get(name);
      if (record !== undefined) this.#keep(name, record.json, record.revision);
    }
    const unknown = missing.filter((name) => !this.#secrets.has(name));
    if (unknown.length > 0) throw secretNotFound(unknown);
  }

  /**
   * The value of a secret; whoever gets it wipes it after use.
   * @throws HatchError `secret.not_found`; `host.config_invalid` when our keys do not open it
   */
  read(name: string): Buffer {
    const record = this.#secrets.get(name);
    if (record === undefined) throw secretNotFound([name]);
    return this.#openBox(name, record.box);
  }

  async #write(name: string, box: SealedBox): Promise<boolean> {
    const before = await this.#records.get(name);
    const record = { box, setAtMs: Date.now() };
    await this.#records.put(name, JSON.stringify(record), before?.revision ?? 0);
    return before === undefined;
  }

  #openBox(name: string, box: SealedBox): Buffer {
    const key = this.#keys.find(box.keyId);
    try {
      return openSealedBox(key, name, box);
    } catch (cause) {
      const message = `Cannot open secret "${name}": ${messageOf(cause)}; set it again`;
      throw new HatchError('request.invalid', message, { cause });
    }
  }

  /** Whether it is news. */
  #keep(name: string, json: unknown, revision: number): boolean {
    const known = this.#secrets.get(name);
    if (known !== undefined && known.revision >= revision) return false;
    this.#secrets.set(name, { ...recordSchema.parse(json), revision });
    return true;
  }
}

function secretNotFound(names: string[]): HatchError {
  const list = names.map((name) => `"${name}"`).join(', ');
  const what = names.length === 1 ? `secret ${list}: it is` : `secrets ${list}: they are`;
  const { tenant, name } = secretOf(names[0] ?? '');
  const flag = names[0] === name ? '' : ` --tenant ${tenant}`;
  const message = `Cannot find ${what} not set; use "hatch secret set ${name}${flag}"`;
  return new HatchError('secret.not_found', message);
}
